from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicom_io.discover import discover
from dicom_io.errors import GeometryError
from dicom_io.model import Instance, group
from dicom_io.stack import Stack, build_stack, continuous

pytestmark = pytest.mark.unit
Make = Callable[..., Instance]

CORONAL = [1, 0, 0, 0, 0, -1]
SAGITTAL = [0, 1, 0, 0, 0, -1]


def at(make: Make, heights: list[float], **changes: object) -> list[Instance]:
    return [make(k + 1, (-10, -20, z), **changes) for k, z in enumerate(heights)]


def heights(stack: Stack) -> list[float]:
    return [float(p) for p in stack.positions_mm]


def refusal(instances: list[Instance]) -> str:
    with pytest.raises(GeometryError) as caught:
        build_stack(instances)
    return caught.value.reason.code


def test_slices_are_sorted_along_the_normal_whatever_their_order_and_numbers(make_slice: Make) -> None:
    stack = build_stack(at(make_slice, [4, 0, 8, 2, 6]))
    assert heights(stack) == [0, 2, 4, 6, 8]
    assert [i.header.InstanceNumber for i in stack.instances] == [2, 4, 1, 5, 3]
    assert (stack.plane, stack.spacing_mm, stack.thickness_mm, stack.tilt_deg) == ("axial", 2.0, 2.0, 0.0)
    assert continuous(stack)
    assert stack.extent_mm == 10.0
    assert stack.pixel_spacing_mm == (0.75, 0.5)


@pytest.mark.parametrize(
    ("orientation", "step", "plane", "normal"),
    [
        ([1, 0, 0, 0, 1, 0], (0, 0, 2), "axial", (0, 0, 1)),
        ([-1, 0, 0, 0, 1, 0], (0, 0, 2), "axial", (0, 0, -1)),  # feet first: columns run to the patient's right
        (CORONAL, (0, 3, 0), "coronal", (0, 1, 0)),
        (SAGITTAL, (3, 0, 0), "sagittal", (-1, 0, 0)),
        ([0.8, 0.6, 0, -0.6, 0.8, 0], (0, 0, 2), "axial", (0, 0, 1)),  # turned within the plane
        ([1, 0, 0, 0, 0.8, 0.6], (0, -1.2, 1.6), "oblique", (0, -0.6, 0.8)),
    ],
)
def test_first_slice_has_the_smallest_position_along_row_cross_column(
    make_slice: Make, orientation: list[float], step: tuple[float, ...], plane: str, normal: tuple[float, ...]
) -> None:
    slices = [make_slice(k + 1, tuple(k * s for s in step), ImageOrientationPatient=orientation) for k in range(4)]
    stack = build_stack(slices)
    assert stack.plane == plane
    np.testing.assert_allclose(stack.normal, normal, atol=1e-12)
    assert (np.diff(stack.positions_mm) > 0).all()
    assert stack.spacing_mm == pytest.approx(np.linalg.norm(step))
    assert stack.tilt_deg == pytest.approx(0, abs=1e-9)
    descending = float(np.dot(step, normal)) < 0
    assert stack.instances[0].header.InstanceNumber == (4 if descending else 1)


def test_a_missing_slice_is_a_gap(make_slice: Make) -> None:
    stack = build_stack(at(make_slice, [0, 2, 4, 10, 12, 14]))
    assert [(g.after_index, g.missing, g.mm) for g in stack.gaps] == [(2, 2, 6.0)]
    assert not continuous(stack)


@pytest.mark.parametrize(("step", "gap"), [(2.9, False), (3.1, True)])
def test_a_gap_begins_above_one_and_a_half_medians(make_slice: Make, step: float, gap: bool) -> None:
    stack = build_stack(at(make_slice, [0, 2, 4, 6, 6 + step]))
    assert bool(stack.gaps) is gap
    assert not stack.uniform


def test_the_same_slice_again_is_dropped_and_named(make_slice: Make) -> None:
    stack = build_stack(at(make_slice, [0, 2, 4, 6, 8, 4.1, 4.05]))
    assert heights(stack) == [0, 2, 4, 6, 8]
    assert [key.sop_instance_uid.rsplit(".", 1)[1] for key in stack.duplicates] == ["6", "7"]
    assert continuous(stack)


def test_slices_only_a_quarter_step_apart_are_not_the_same(make_slice: Make) -> None:
    stack = build_stack(at(make_slice, [0, 2, 4, 6, 6.5]))
    assert stack.duplicates == ()
    assert not stack.uniform


@pytest.mark.parametrize("times", [2, 3])
def test_all_positions_repeated_are_several_phases(make_slice: Make, times: int) -> None:
    assert refusal(at(make_slice, [0, 2, 4, 6] * times)) == "positions-repeated"


def test_phases_hidden_behind_a_few_single_positions_are_refused(make_slice: Make) -> None:
    assert refusal(at(make_slice, [0, 2, 4, 6, 8, 10, 2, 4, 6, 8])) == "positions-repeated"


def test_one_slice_sent_twice_is_one_slice(make_slice: Make) -> None:
    stack = build_stack(at(make_slice, [5, 5]))
    assert len(stack.instances) == len(stack.duplicates) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"FrameOfReferenceUID": "1.2.3.99"}, "mixed-frames-of-reference"),
        ({"FrameOfReferenceUID": None}, "mixed-frames-of-reference"),
        ({"Rows": 9}, "mixed-size"),
        ({"Columns": 7}, "mixed-size"),
        ({"PixelSpacing": [0.75, 0.51]}, "mixed-pixel-spacing"),
        ({"ImageOrientationPatient": CORONAL}, "mixed-orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.9998, 0.02]}, "mixed-orientation"),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, "mixed-orientation"),  # same normal, turned half round
        ({"ImagePositionPatient": [30, -20, 6]}, "slices-not-in-line"),
        ({"ImagePositionPatient": None}, "no-geometry"),
        ({"ImageOrientationPatient": None}, "no-geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no-geometry"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "no-geometry"),
        ({"PixelSpacing": None}, "no-geometry"),
        ({"PixelSpacing": [0, 0.5]}, "no-geometry"),
        ({"Rows": 0}, "no-geometry"),
        ({"NumberOfFrames": 2}, "multi-frame-not-supported"),
    ],
)
def test_one_slice_that_does_not_fit_refuses_the_stack(make_slice: Make, changes: dict[str, object], code: str) -> None:
    slices = at(make_slice, [0, 2, 4])
    pixels = np.zeros(200, "<i2")
    slices.append(make_slice(4, (-10, -20, 6), pixels, **changes))
    assert refusal(slices) == code


def test_no_slices_is_a_coded_refusal() -> None:
    assert refusal([]) == "no-slices"


def test_gantry_tilt_is_the_angle_between_displacement_and_normal(make_slice: Make) -> None:
    angle = np.radians(20)
    orientation = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
    stack = build_stack([make_slice(k + 1, (0, 0, 5.0 * k), ImageOrientationPatient=orientation) for k in range(5)])
    assert stack.tilt_deg == pytest.approx(20, abs=1e-3)
    assert stack.spacing_mm == pytest.approx(5 * np.cos(angle), abs=1e-4)
    np.testing.assert_allclose(stack.displacement_mm, (0, 0, 5), atol=1e-9)


def test_a_reformat_whose_origin_is_fixed_has_no_tilt(make_slice: Make) -> None:
    angle = np.radians(30)
    normal = np.array([0, -np.sin(angle), np.cos(angle)])
    orientation = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
    stack = build_stack(
        [
            make_slice(k + 1, tuple(float(v) for v in 5 * k * normal), ImageOrientationPatient=orientation)
            for k in range(5)
        ]
    )
    assert (stack.plane, stack.tilt_deg) == ("oblique", pytest.approx(0, abs=1e-3))


def test_rounded_positions_and_cosines_are_still_even(make_slice: Make) -> None:
    exact = [k * 2 / 3 for k in range(40)]
    slices = [
        make_slice(
            k + 1, (-10, -20 + 0.01 * (k % 2), round(z, 1)), ImageOrientationPatient=[1, 0, 1e-5 * (k % 3), 0, 1, 0]
        )
        for k, z in enumerate(exact)
    ]
    stack = build_stack(slices)
    assert continuous(stack)
    assert stack.tilt_deg < 0.1


def test_a_single_slice_takes_its_thickness_as_spacing(make_slice: Make) -> None:
    stack = build_stack([make_slice(1, (0, 0, 5), SliceThickness=3)])
    assert (stack.spacing_mm, stack.tilt_deg, stack.gaps, stack.uniform) == (3.0, 0.0, (), True)
    np.testing.assert_array_equal(stack.displacement_mm, (0, 0, 3))


def test_headers_with_text_where_numbers_belong_are_refused_not_raised(make_slice: Make) -> None:
    broken = make_slice(1, (0, 0, 0))
    raw = broken.path.read_bytes().replace(b"0.75\\0.5", b"abcd\\efg")
    broken.path.write_bytes(raw)
    assert refusal([next(f.instance for f in discover([broken.path], Path()) if f.instance)]) == "no-geometry"


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "count", "plane", "spacing", "thickness"),
    [
        ("Lung_Dx-A0001/s2_lung_kernel_L", 64, "axial", 5.0, 5.0),
        ("Lung_Dx-A0001/s3_soft_kernel_B", 18, "axial", 5.0, 5.0),
        ("CIP_ct64/dicom", 79, "axial", 3.987, 3.987),
        ("FDA_phantom_layout2", 85, "axial", 3.2, 0.8),
        ("Lambin_lung_crops/pat_1", 60, "axial", 3.0, 3.0),
        ("Lambin_lung_crops/pat_3", 46, "axial", 3.0, 3.0),
        ("negative_head_Philips", 14, "axial", 5.0, 5.0),
        ("negative_head_Philips_localizer", 1, "sagittal", 0.625, 0.625),
    ],
)
def test_real_series_are_continuous_stacks(
    real_data: Path, tmp_path: Path, folder: str, count: int, plane: str, spacing: float, thickness: float
) -> None:
    found = [f.instance for f in discover([real_data / "ct" / folder], tmp_path) if f.instance]
    (series,) = (s for s in group(found)[0].series if s.modality == "CT")
    stack = build_stack(series.instances)
    assert (len(stack.instances), stack.plane, stack.duplicates) == (count, plane, ())
    assert stack.spacing_mm == pytest.approx(spacing, abs=1e-3)
    assert stack.thickness_mm == pytest.approx(thickness, abs=1e-3)
    assert continuous(stack)
    assert stack.tilt_deg < 0.01


@pytest.mark.data
def test_a_scout_inside_a_real_sagittal_series_is_seen(real_data: Path, tmp_path: Path) -> None:
    found = [f.instance for f in discover([real_data / "ct" / "RICORD-1A-000906"], tmp_path) if f.instance]
    assert refusal(found) == "mixed-orientation"
    assert build_stack([i for i in found if i.header.ImageOrientationPatient[0] == 0]).plane == "sagittal"


def test_a_slice_keeps_its_volume_where_others_are_missing(make_slice: Make) -> None:
    whole = [5.0 * n for n in range(30)]
    holed = [z for n, z in enumerate(whole) if n not in {10, 11, 12}]
    np.testing.assert_allclose(build_stack(at(make_slice, holed)).displacement_mm, (0, 0, 5), atol=1e-9)
