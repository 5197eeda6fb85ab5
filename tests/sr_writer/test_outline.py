"""Outlines: closed, long enough, and where the mask is."""

import contourpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, gaussian_filter, label

from pipeline.result import Mask
from sr_writer.outline import MAX_POINTS, MIN_POINTS, contours, largest_slice, outline, spread_slices

pytestmark = pytest.mark.unit


def _mask(plane: np.ndarray, z: int = 2, slices: int = 5) -> Mask:
    array = np.zeros((slices, *plane.shape), np.uint8)
    array[z] = plane
    return Mask.of(array)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)


def test_one_pixel_is_centred_on_the_half() -> None:
    plane = np.zeros((12, 30))
    plane[4, 20] = 1  # row 4, column 20
    points = outline(_mask(plane), 2).points
    assert len(points) > MIN_POINTS
    assert np.allclose(points[:-1].mean(axis=0), (20.5, 4.5), atol=0.01)  # (column, row), PS3.3 C.18.6.1.2


def test_the_whole_image_reaches_its_edges() -> None:
    points = outline(_mask(np.ones((40, 60))), 2).points
    assert points.min() == pytest.approx(0.0, abs=0.01)
    assert points.max(axis=0) == pytest.approx((60.0, 40.0), abs=0.01)


def test_holes_are_covered_and_crumbs_left_out() -> None:
    plane = np.zeros((60, 60))
    plane[10:50, 10:50] = 1
    plane[20:30, 20:30] = 0
    plane[2:4, 2:4] = 1
    points = outline(_mask(plane), 2).points
    assert _area(points) == pytest.approx(1600, rel=0.02)
    assert points.min() > 9


def test_two_parts_are_joined_by_a_line_that_adds_no_area() -> None:
    plane = np.zeros((60, 100))
    plane[10:50, 5:40] = 1
    plane[10:50, 60:95] = 1
    points = outline(_mask(plane), 2).points
    assert _area(points) == pytest.approx(2 * 40 * 35, rel=0.02)
    assert points[:, 0].min() == pytest.approx(5, abs=0.6)
    assert points[:, 0].max() == pytest.approx(95, abs=0.6)


def test_no_outline_of_nothing() -> None:
    plane = np.ones((4, 4))
    for z in (0, 4, 9, -1):
        with pytest.raises(ValueError, match="empty"):
            outline(_mask(plane), z)


def test_key_slice_is_the_largest_and_others_are_spread() -> None:
    array = np.zeros((20, 10, 10), np.uint8)
    for z in range(3, 18):
        array[z, : 1 + (z == 11) * 4, :5] = 1
    array[7] = 0
    mask = Mask.of(array)
    assert largest_slice(mask) == 11
    assert spread_slices(mask, 3) == (3, 10, 17)
    assert spread_slices(mask, 99) == tuple(z for z in range(3, 18) if z != 7)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), size=st.integers(8, 120), smooth=st.floats(0.5, 6), share=st.floats(0.6, 0.97))
def test_any_blob_is_outlined_closely(seed: int, size: int, smooth: float, share: float) -> None:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size + 9)), smooth)
    parts, _ = label(noise > np.quantile(noise, share))
    plane = (parts == np.bincount(parts[parts > 0]).argmax()).astype(np.uint8)
    points = outline(_mask(plane), 2).points
    assert MIN_POINTS < len(points) <= MAX_POINTS + 1
    assert (points[0] == points[-1]).all()
    assert (points >= 0).all()
    assert (points <= (size + 9, size)).all()
    scale = 8
    image = Image.new("L", ((size + 9) * scale, size * scale))
    ImageDraw.Draw(image).polygon([tuple(p * scale) for p in points], fill=1)
    inside = np.asarray(image)[scale // 2 :: scale, scale // 2 :: scale].astype(bool)
    filled = binary_fill_holes(plane)
    assert not (inside & ~binary_dilation(filled, iterations=2)).any()
    assert not (binary_erosion(filled, iterations=2) & ~inside).any()


def test_a_plane_that_is_full_has_the_outline_that_is_traced_of_it() -> None:
    full = np.ones((7, 5), np.uint8)
    lines = contourpy.contour_generator(z=np.pad(full, 1).astype(np.float32), name="serial").lines(0.5)
    traced = {tuple(point) for point in np.asarray(lines[0]) - 0.5}
    (told,) = contours(full)
    assert {tuple(point) for point in told} <= traced
    assert _area(told) == 7 * 5 - 0.5
