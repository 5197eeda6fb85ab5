"""Real series: against the curator's references where there are any, else a refusal that makes sense."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its makers use
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull

from dicom_io.model import Study, group
from dicom_io.read import read_instance
from dicom_io.stack import build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.api import Analysis
from pipeline.chest_ct import suggestion
from pipeline.chest_ct.grid import WorkingGrid
from pipeline.chest_ct.lungs import segment
from pipeline.chest_ct.parameters import parameters
from pipeline.chest_ct.select import select
from pipeline.errors import NotAnalysed

SHARES = ("opacity_percent", "ground_glass_percent", "dense_percent")

pytestmark = pytest.mark.data


def study(*folders: Path) -> Study:
    files = sorted(p for f in folders for p in f.rglob("*") if p.is_file() and p.suffix not in {".csv", ".gz", ".txt"})
    (found,) = group([read_instance(p) for p in files])
    return found


@pytest.fixture(scope="module")
def a0001(real_data: Path, analyse: Callable) -> Analysis:
    chest = study(real_data / "ct/Lung_Dx-A0001")
    chosen = select(chest).chosen
    assert chosen is not None
    assert len(chosen.instances) == 64, "series 2, not the 18 slices of series 3"
    return analyse(chest)


@pytest.fixture(scope="module")
def cip(real_data: Path, analyse: Callable) -> Analysis:
    return analyse(study(real_data / "ct/CIP_ct64/dicom"))


def painted(analysis: Analysis) -> np.ndarray:
    out = np.zeros(analysis.result.geometry.shape, np.uint8)
    for value, site in ((1, "right_lung"), (2, "left_lung")):
        analysis.result.region(site).mask.paint(out, value)
    return out


def inside_hull(mask: np.ndarray) -> np.ndarray:
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    equations = ConvexHull(border).equations.astype(np.float32)
    out = np.zeros(mask.shape, bool)
    for z in range(border[:, 0].min(), border[:, 0].max() + 1):
        y, x = np.indices(mask.shape[1:], np.float32)
        fits = np.ones(mask.shape[1:], bool)
        for a, b, c, d in equations:
            fits &= a * z + b * y + c * x + d <= 1e-3
        out[z] = fits
    return out


def check(analysis: Analysis, reference: np.ndarray) -> None:
    mine, spacing = painted(analysis), analysis.volume.spacing_mm
    seen = reference > 0
    assert np.count_nonzero(mine[seen]) >= 0.95 * seen.sum()
    for side in (1, 2):
        far = ndimage.distance_transform_edt(~inside_hull(reference == side), sampling=spacing) > 5
        assert np.count_nonzero(far & (mine == side)) <= 0.02 * np.count_nonzero(mine == side)
    # the references part the lungs at the middle of the image, not where they touch: 35 mm from there both must agree
    x = analysis.result.geometry.to_lps(np.argwhere(seen & (mine > 0)))[:, 0]
    clear = np.abs(x - x.mean()) > 35
    agree = (reference == mine)[seen & (mine > 0)][clear]
    assert agree.mean() >= 0.99


def test_a0001_lungs(real_data: Path, a0001: Analysis) -> None:
    image = sitk.ReadImage(str(real_data / "ct/Lung_Dx-A0001/ref_aerated_lung.nii.gz"))
    assert np.allclose(image.GetOrigin(), a0001.volume.affine[:3, 3], atol=0.1)
    check(a0001, sitk.GetArrayFromImage(image))


def test_cip_lungs(real_data: Path, cip: Analysis) -> None:
    regions = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data / "ct/CIP_ct64/lm-64.nrrd"))) & 255
    left, right = np.isin(regions, (9, 10, 11)), np.isin(regions, (12, 13, 14))
    check(cip, (left * 2 + right).astype(np.uint8))


def test_both_print_percentages(a0001: Analysis, cip: Analysis) -> None:
    for analysis in (a0001, cip):
        status = {m.status for m in analysis.result.measurements if m.name in SHARES}
        assert status <= {"ok", "lower_bound"}


def test_a0001_tumour_is_the_opacity(real_data: Path, a0001: Analysis) -> None:
    result = a0001.result
    largest = result.findings[0]
    assert largest.site == "left_lung"
    assert largest.code.as_json() == ["112001", "DCM", "Opacity"]
    mask = result.segments[largest.segment_number - 1].mask
    with (real_data / "ct/Lung_Dx-A0001/tumour_boxes.csv").open() as lines:
        rows = [r for r in csv.DictReader(lines) if r["series"].startswith("s2")]
    touched = 0
    for row in rows:
        plane = mask.plane(result.geometry.images.index((row["sop_instance_uid"], 0)))
        box = plane[int(row["ymin"]) : int(row["ymax"]) + 1, int(row["xmin"]) : int(row["xmax"]) + 1]
        touched += box.mean() > 0.1
    assert touched >= len(rows) / 2
    said = " ".join(result.summary.values()).lower()
    assert "pneumonia" not in said
    assert "肺炎" not in said


def test_a0001_tumour_is_kept_inside_the_lung(real_data: Path, a0001: Analysis) -> None:
    """A box holds the tumour and corners of wall and mediastinum; the ellipse in it is nearer to the tumour itself."""
    lungs = painted(a0001) > 0
    boxes, ellipses = np.zeros(lungs.shape, bool), np.zeros(lungs.shape, bool)
    y, x = np.indices(lungs.shape[1:])
    with (real_data / "ct/Lung_Dx-A0001/tumour_boxes.csv").open() as lines:
        for row in (r for r in csv.DictReader(lines) if r["series"].startswith("s2")):
            z = a0001.result.geometry.images.index((row["sop_instance_uid"], 0))
            low, high = (np.array([int(row["y" + e]), int(row["x" + e])]) for e in ("min", "max"))
            boxes[z, low[0] : high[0] + 1, low[1] : high[1] + 1] = True
            (cy, cx), (ry, rx) = (low + high) / 2, (high - low + 1) / 2
            ellipses[z] |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    kept = [np.count_nonzero(lungs & m) / np.count_nonzero(m) for m in (boxes, ellipses)]
    print(f"A0001: {kept[0]:.1%} of the boxes, {kept[1]:.1%} of the ellipses in them")  # noqa: T201 - asked for
    assert kept[0] >= 0.75
    assert kept[1] >= 0.80


def contoured(path: Path, volume: Volume) -> np.ndarray:
    """Paint the gross tumour volume of an RTSTRUCT by the even-odd rule."""
    plan = pydicom.dcmread(path)
    wanted = {r.ROINumber for r in plan.StructureSetROISequence if r.ROIName.startswith("GTV")}
    out = np.zeros(volume.array.shape, bool)
    y, x = np.indices(out.shape[1:])
    for roi in (r for r in plan.ROIContourSequence if r.ReferencedROINumber in wanted):
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            at = np.linalg.solve(volume.affine, np.c_[points, np.ones(len(points))].T)[:3].T
            inside = np.zeros(out.shape[1:], bool)
            for (ax, ay, _), (bx, by, _) in zip(at, np.roll(at, -1, axis=0), strict=True):
                if ay != by:
                    inside ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
            out[round(float(at[:, 2].mean()))] ^= inside
    return out


@pytest.mark.parametrize(
    ("patient", "only", "cm3"),
    [
        ("pat_1", 1, 359),
        pytest.param("pat_3", 2, 11, marks=pytest.mark.xfail(strict=True, reason="a hilar tumour: see the card")),
    ],
)
def test_contoured_tumours_are_kept_inside_the_lung(real_data: Path, patient: str, only: int, cm3: float) -> None:
    """One half of a chest: `process` refuses it, so that the mask stage is called by itself."""
    folder = real_data / "ct/Lambin_lung_crops" / patient
    files = {p: pydicom.dcmread(p, stop_before_pixels=True).Modality for p in folder.rglob("*.dcm")}
    (one,) = group([read_instance(p) for p, modality in files.items() if modality == "CT"])
    volume = load_volume(build_stack(one.series[0].instances))
    truth = contoured(next(p for p, modality in files.items() if modality == "RTSTRUCT"), volume)
    assert truth.sum() * abs(np.linalg.det(volume.affine[:3, :3])) / 1000 == pytest.approx(cm3, rel=0.25)
    p = parameters()
    grid = WorkingGrid.of(volume, p["grid"]["spacing"])
    found = segment(grid.take(volume.array, torch.device("cpu")), None, grid.spacing, p, only=only)
    truth = grid.nearest_source(truth, tuple(slice(0, n) for n in truth.shape), found.box)
    kept = np.count_nonzero(truth & (found.label == only)) / np.count_nonzero(truth)
    print(f"{patient}: {kept:.1%}")  # noqa: T201 - asked for
    assert not (found.label == 3 - only).any()
    assert kept >= 0.8


def test_a0001_tumour_is_no_pneumonia(a0001: Analysis) -> None:
    (one,) = a0001.result.suggestions
    assert one.name == "pneumonia_pattern"
    assert one.answer in {"no", "undetermined"}
    # whatever the form of the tumour is called: with the indication, too
    held = {e.rule: e.value for e in one.evidence}
    shares = [
        m for m in a0001.result.measurements if m.name == "opacity_percent" and m.site.endswith(("lungs", "_lung"))
    ]
    made = suggestion.suggest(held, shares, a0001.result.quality.grade, None, suggestion.VIRAL)
    assert {s.answer for s in made} <= {"no", "undetermined"}


def test_cip_has_no_opacity(cip: Analysis) -> None:
    assert cip.result.findings == ()


@pytest.mark.parametrize(
    ("folder", "codes"),
    [
        ("negative_head_Philips", {"study-other-body-part"}),
        ("negative_head_Philips_localizer", {"series-localizer"}),
        ("RICORD-1A-000906", {"mixed-orientation", "series-too-short", "series-too-narrow"}),
        ("Lambin_lung_crops/pat_1", {"series-too-narrow", "one-lung"}),
        ("Lambin_lung_crops/pat_3", {"series-too-narrow", "one-lung"}),
        ("CIP_ct64/simple_dicom_2slices", {"series-too-few-slices"}),
        ("Lung_Dx-A0001/s3_soft_kernel_B", {"series-too-few-slices", "series-too-short"}),
    ],
)
def test_refused(real_data: Path, folder: str, codes: set[str]) -> None:
    selection = select(study(real_data / "ct" / folder))
    assert selection.reason is not None
    assert selection.reason.code in codes


def test_single_slices_are_refused(real_data: Path) -> None:
    files = sorted((real_data / "ct/NY-SBU_slices").rglob("*.dcm"))
    for found in group([read_instance(p) for p in files]):
        reason = select(found).reason
        assert reason is not None
        assert reason.code in {"series-too-few-slices", "study-other-body-part"}


def test_air_filled_phantom_is_no_lung(real_data: Path, analyse: Callable) -> None:
    with pytest.raises(NotAnalysed) as error:
        analyse(study(real_data / "ct/FDA_phantom_layout2"))
    assert error.value.reason.code == "lungs-not-tissue"
