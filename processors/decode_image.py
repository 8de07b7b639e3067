"""Still images: header facts, and pixels as upright 8-bit RGB.

What is decided here: EXIF orientation is applied; transparency is laid over white (as qwen-vl-utils does for RGBA);
16-bit and float images are scaled to 8 bits (Pillow's own conversion clips them); of an animation the first frame is
used; colour profiles are ignored.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmreason.processors.base import CORRUPT, NAN_SAMPLES, TOO_LARGE, TRUNCATED, Facts, Limits, Plan, Refusal
from mmreason.processors.sniff import expect
from mmreason.processors.source import Source, open_source

Array = np.ndarray[Any, Any]

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
"""Pillow's readers that may run: raster formats only (EPS would start Ghostscript)."""

Image.init()  # loads the readers; Image.open(formats=...) alone knows the five commonest

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error)


def image_facts(source: Source, digest: str, limits: Limits) -> Facts:
    """Format and shown size, from the header. Raises Refusal: wrong type, corrupt, truncated, too large."""
    with _opened(source, limits.pixels) as image:
        width, height = image.size
        shown = (height, width) if _orientation(image) >= 5 else (width, height)
        return Facts(digest=digest, format=str(image.format), size=shown)


def decode_image(source: Source, plan: Plan, limits: Limits) -> Array:
    """uint8 [H, W, 3], upright, resized to `plan.size`. Raises Refusal as `image_facts`, and for NaN pixels."""
    with _opened(source, limits.pixels) as image:
        turn = _UPRIGHT.get(_orientation(image))
        image.load()
        upright = to_rgb(image) if turn is None else to_rgb(image).transpose(turn)
    return np.array(upright.resize(plan.size, Image.Resampling.BICUBIC))


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image in any of Pillow's modes."""
    if image.mode == "F" or image.mode.startswith("I"):
        white = 65535.0 if image.format == "PPM" and image.mode == "I" else None  # Pillow scales deep PGMs to 16 bits
        return Image.fromarray(_to_eight_bits(np.asarray(image), white)).convert("RGB")
    if image.mode == "La":  # premultiplied: Pillow converts it to LA and to nothing else
        image = image.convert("LA")
    if ("A" in image.mode.upper() and image.mode != "LAB") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(grey_HW: Array, white: float | None) -> Array:
    """16 bits by 257. Floats and 32-bit integers do not say what white is: 1 or 255, 255 or 65535, or their peak."""
    if grey_HW.dtype.itemsize == 2:
        return ((grey_HW.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.isfinite(grey_HW).all():
        raise Refusal(NAN_SAMPLES, "pixels are not numbers")
    peak = float(grey_HW.max())
    usual = (1.0, 255.0) if grey_HW.dtype.kind == "f" else (255.0, 65535.0)
    white = white or next((level for level in usual if peak <= level), peak)
    return np.rint(np.clip(grey_HW.astype(np.float64) / white, 0, 1) * 255).astype(np.uint8)


@contextmanager
def _opened(source: Source, max_pixels: int) -> Iterator[Image.Image]:
    """The image with its header read. Pillow's many errors and warnings become Refusals."""
    with open_source(source) as file, warnings.catch_warnings():
        name = expect("image", file)
        warnings.simplefilter("ignore")  # damaged EXIF and the like
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is checked below
        try:
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise Refusal(TOO_LARGE, f"{width} x {height} pixels, at most {max_pixels} are allowed")
                yield image
        except UnidentifiedImageError:
            raise Refusal(CORRUPT, f"Pillow cannot read this {name} file") from None
        except _PILLOW_ERRORS as error:
            early = "truncated" in str(error).lower() or isinstance(error, EOFError)
            raise Refusal(TRUNCATED if early else CORRUPT, f"{name}: {error}") from None
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8. Call it before the pixels are loaded: Pillow turns TIFFs itself then."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # asking a PNG that has no EXIF in its header would decode all of it
    found = image.getexif().get(_EXIF_ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1  # cameras and editors write 0, 9 and text too
