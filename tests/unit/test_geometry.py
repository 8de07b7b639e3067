"""Golden values: research notes "rewards", section 0.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.errors import DataError
from mmreason.geometry import convert_box, convert_point
from mmreason.types import Box, CoordinateFrame

FRAMES: list[CoordinateFrame] = ["original_pixels", "resized_pixels", "per_thousand", "unit"]
SIZES = st.tuples(st.integers(1, 8000), st.integers(1, 8000))


def corners(box: Box) -> tuple[float, float, float, float]:
    return box.x1, box.y1, box.x2, box.y2


def test_resized_pixels_to_original() -> None:
    box = Box(x1=100, y1=100, x2=300, y2=200, frame="resized_pixels")
    converted = convert_box(box, "original_pixels", original=(640, 480), resized=(644, 476))
    assert corners(converted) == pytest.approx((99.378882, 100.840336, 298.136646, 201.680672), abs=1e-6)
    assert converted.frame == "original_pixels"


def test_thousandths_to_original_pixels() -> None:
    box = Box(x1=250, y1=500, x2=750, y2=1000, frame="per_thousand")
    assert corners(convert_box(box, "original_pixels", original=(640, 480))) == (160, 240, 480, 480)


def test_relative_frames_need_no_size() -> None:
    assert convert_point((0.25, 1.0), "unit", "per_thousand") == (250, 1000)


def test_the_same_frame_needs_no_size_and_changes_nothing() -> None:
    assert convert_point((0.1, 7.3), "resized_pixels", "resized_pixels") == (0.1, 7.3)


@pytest.mark.parametrize("frame", ["original_pixels", "resized_pixels"])
def test_an_unknown_size_is_named(frame: CoordinateFrame) -> None:
    with pytest.raises(DataError, match=f"{frame.split('_')[0]} image size is not known"):
        convert_point((1, 1), frame, "unit")


def test_a_size_of_zero_is_refused() -> None:
    with pytest.raises(DataError, match="0 x 5"):
        convert_point((1, 1), "original_pixels", "unit", original=(0, 5))


@given(st.sampled_from(FRAMES), st.sampled_from(FRAMES), SIZES, SIZES, st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 2))
def test_there_and_back_again(
    a: CoordinateFrame,
    b: CoordinateFrame,
    original: tuple[int, int],
    resized: tuple[int, int],
    point: tuple[float, float],
) -> None:
    there = convert_point(point, a, b, original, resized)
    assert convert_point(there, b, a, original, resized) == pytest.approx(point, rel=1e-9, abs=1e-9)
