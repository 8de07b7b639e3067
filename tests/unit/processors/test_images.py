"""Images of every kind, written by Pillow, come out upright, 8-bit RGB, resized by qwen-vl-utils' rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qwen_vl_utils.vision_process import smart_resize

from mmreason.errors import MediaError
from mmreason.processors.decode_image import to_rgb
from tests.media_files import picture, write_image
from tests.unit.processors.helpers import load, reason, ref

QUARTERS = np.zeros((56, 84, 3), np.uint8)
QUARTERS[:28, :42] = 255  # the upper left quarter is white: shows every rotation and flip


@pytest.mark.parametrize(("width", "height"), [(64, 48), (300, 20), (31, 47), (2000, 1500), (1, 1)])
def test_size_is_smart_resize(tmp_path: Path, width: int, height: int) -> None:
    decoded = load(ref(write_image(tmp_path / "a.png", picture(width, height))), image_max_pixels=100_000)
    assert decoded.data.shape == (*smart_resize(height, width, 28, 3136, 100_000), 3)
    assert decoded.original == (width, height)


def test_options_of_the_item_win(tmp_path: Path) -> None:
    decoded = load(ref(write_image(tmp_path / "a.png", picture(400, 400)), min_pixels=3136, max_pixels=12544))
    assert decoded.data.shape == (112, 112, 3)


def test_pixels_equal_pillow(tmp_path: Path) -> None:
    pixels = picture(84, 56)
    decoded = load(ref(write_image(tmp_path / "a.png", pixels)))
    np.testing.assert_array_equal(decoded.data, pixels)  # already a multiple of 28: unchanged


# Where the white quarter of the stored image is shown, by EXIF orientation.
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, "ul"), (2, "ur"), (3, "lr"), (4, "ll"), (5, "ul"), (6, "ur"), (7, "lr"), (8, "ll")],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_orientation(tmp_path: Path, orientation: int, corner: str, suffix: str) -> None:
    path = write_image(tmp_path / f"a{suffix}", QUARTERS, orientation=orientation)
    decoded = load(ref(path))
    shown = (56, 84) if orientation >= 5 else (84, 56)
    assert decoded.original == shown
    assert decoded.data.shape == (shown[1], shown[0], 3)
    row, column = (2 if corner[0] == "u" else -3), (2 if corner[1] == "l" else -3)
    assert decoded.data[row, column].min() > 200
    assert decoded.data[2 if row < 0 else -3, 2 if column < 0 else -3].max() < 50


@pytest.mark.parametrize("orientation", [0, 9, 42, 65535])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_orientation_that_is_none(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = load(ref(write_image(tmp_path / f"a{suffix}", QUARTERS, exif=exif)))
    assert decoded.original == (84, 56)
    assert decoded.data[2, 2].min() > 200
    assert decoded.data[2, -3].max() < 50


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", ".png"), ("1", ".png"), ("P", ".png"), ("P", ".gif"), ("CMYK", ".jpg"), ("YCbCr", ".jpg"), ("RGB", ".bmp"),
     ("RGB", ".ppm"), ("CMYK", ".tiff"), ("RGB", ".webp"), ("LAB", ".tiff"), ("RGB", ".jp2"), ("RGB", ".avif")],
)  # fmt: skip
def test_modes(tmp_path: Path, mode: str, suffix: str) -> None:
    decoded = load(ref(write_image(tmp_path / f"a{suffix}", QUARTERS, mode), kind="image"))
    assert decoded.data.shape == (56, 84, 3)
    assert decoded.data[5, 5].min() > 240
    assert decoded.data[-5, -5].max() < 15


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", ".png"), ("LA", ".png"), ("RGBA", ".webp"), ("RGBA", ".tiff")])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str, suffix: str) -> None:
    red = np.zeros((56, 56, 4), np.uint8)
    red[..., 0], red[:, :28, 3], red[:, 28:, 3] = 200, 255, 0
    decoded = load(ref(write_image(tmp_path / f"a{suffix}", red, mode)))
    assert decoded.data[10, 40].tolist() == [255, 255, 255]
    assert decoded.data[10, 10, 1] < 100


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.new("P", (56, 56), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (28, 0, 56, 56))
    image.save(tmp_path / "a.png", transparency=0)
    decoded = load(ref(tmp_path / "a.png"))
    assert decoded.data[10, 10].tolist() == [255, 255, 255]
    assert decoded.data[10, 50].tolist() == [0, 0, 200]


@pytest.mark.parametrize(
    ("dtype", "white", "suffix"),
    [("uint16", 65535, ".png"), ("uint16", 65535, ".tiff"), ("int32", 65535, ".tiff"), ("int32", 10**9, ".tiff"),
     ("float32", 1.0, ".tiff"), ("float32", 255.0, ".tiff"), ("float32", 5000.0, ".tiff")],
)  # fmt: skip
def test_deep_images_are_scaled_not_clipped(tmp_path: Path, dtype: str, white: float, suffix: str) -> None:
    ramp = np.linspace(0, white, 56 * 56).reshape(56, 56).astype(dtype)
    path = write_image(tmp_path / f"a{suffix}", ramp, "as is")
    decoded = load(ref(path)).data[..., 0].astype(float)
    np.testing.assert_allclose(decoded, np.linspace(0, 255, 56 * 56).reshape(56, 56), atol=1.01)


@pytest.mark.parametrize("peak", [200, 65535])
def test_white_of_a_deep_pgm(tmp_path: Path, peak: int) -> None:
    """Its header says what white is: a dark picture stays dark."""
    ramp = np.linspace(0, peak, 56 * 56).reshape(56, 56).astype(np.int32)
    path = write_image(tmp_path / "a.pgm", ramp, "as is")
    assert path.read_bytes().startswith(b"P5\n56 56\n65535\n")
    np.testing.assert_allclose(load(ref(path)).data[..., 0], ramp / 257, atol=1.01)


def test_big_tiff(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.tif", picture(84, 56), big_tiff=True)
    assert path.read_bytes().startswith(b"II+\0")
    np.testing.assert_array_equal(load(ref(path)).data, picture(84, 56))
    turned = write_image(tmp_path / "b.tif", np.zeros((56, 56), ">u2"), "as is", big_tiff=True)  # its own, unread
    with pytest.raises(MediaError, match="Pillow cannot read this TIFF file"):
        load(ref(turned))


def test_nan_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tiff", np.full((56, 56), np.nan, np.float32), "as is")
    assert reason(ref(tmp_path / "a.tiff")) == "NaN samples"


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    for suffix in (".gif", ".webp", ".png"):
        frames = [Image.new("RGB", (56, 56), colour) for colour in ("red", "green", "blue")]
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=100)
        red, green, blue = load(ref(tmp_path / f"a{suffix}", kind="image")).data[5, 5].tolist()
        assert red > 240 > 15 > max(green, blue)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr",
                                  "LAB", "HSV", "I", "F", "I;16", "I;16B", "I;16L"])  # fmt: skip
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (4, 3))).mode == "RGB"


def test_a_jpeg_named_png_is_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", QUARTERS, format="JPEG")
    assert load(ref(tmp_path / "a.png")).data.shape == (56, 84, 3)


def test_bytes_and_path_give_the_same(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", QUARTERS)
    by_path, by_bytes = load(ref(path)), load(_bytes_ref("image", path))
    assert by_path.key == by_bytes.key
    np.testing.assert_array_equal(by_path.data, by_bytes.data)


def _bytes_ref(kind: str, path: Path) -> Any:
    from mmreason.types import MediaRef

    return MediaRef(kind=kind, data=path.read_bytes())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.95])
def test_images_cut_anywhere_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = write_image(tmp_path / f"a{suffix}", picture(200, 150))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert reason(ref(path, kind="image")) in ("truncated", "corrupt")
