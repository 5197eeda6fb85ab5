"""Labels of every form lie on the voxels that they were drawn on, or are refused by name; people stay on one side."""

import ast
import gzip
import shutil
import string
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

pytest.importorskip("torch")

from dicom_io.reason import LANGUAGES
from dicom_io.volume import Volume
from pipeline.chest_ct.recipe import contours, data, nifti, plausible
from pipeline.chest_ct.recipe.data import Gathered, Row, gather
from pipeline.chest_ct.recipe.place import Space
from pipeline.chest_ct.recipe.refusals import LabelRefused, write
from pipeline.chest_ct.recipe.settings import SettingsWrong, settings
from pipeline.result import Mask
from tests.pipeline.recipe import makers

pytestmark = pytest.mark.unit

Array = np.ndarray[Any, Any]


AXIAL_ONLY = pytest.mark.parametrize("chest", ["axial"], indirect=True)


def own(**lesion: Any) -> dict[str, Any]:
    said = settings()
    said["series"] = {"slices": 5, "thickness_mm": 30.0}
    said["lesion"] = {**said["lesion"], **lesion}
    return said


@pytest.fixture(scope="module", params=["axial", "coronal"])
def chest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A chest whose slices run to the back, or to the feet."""
    folder = tmp_path_factory.mktemp(request.param)
    made = makers.chest(folder, plane=request.param, feet_first=request.param == "axial")
    return folder, made


@pytest.fixture
def copy(chest: tuple[Path, Any], tmp_path: Path) -> tuple[Path, Any]:
    shutil.copytree(chest[0] / "images", tmp_path / "images")
    return tmp_path, chest[1]


def lesion(made: Any) -> Array:
    return np.asarray(made.lesion > 0)


def read(folder: Path, rows: list[Row] | None = None, **lesion_settings: Any) -> Gathered:
    return gather(folder, rows or [], own(**lesion_settings), folder)


def marked(gathered: Gathered) -> Array:
    (case,) = gathered.cases
    assert case.lesion is not None, gathered.refused
    out = np.zeros(case.lesion.shape, bool)
    case.lesion.paint(out)
    return out


def codes(gathered: Gathered) -> set[str]:
    return {r.code for r in gathered.refused}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_lies_where_it_was_drawn(copy: tuple[Path, Any], kind: str) -> None:
    folder, made = copy
    makers.seg(folder, lesion(made), folder / "seg.dcm", kind=kind)
    assert np.array_equal(marked(read(folder)), lesion(made))


@AXIAL_ONLY
def test_segments_with_other_names_are_no_lesions(copy: tuple[Path, Any]) -> None:
    folder, made = copy
    makers.seg(folder, lesion(made), folder / "seg.dcm", label="Left lung")
    gathered = read(folder)
    assert not gathered.cases
    assert codes(gathered) == {"label-names", "series-unlabelled"}
    assert np.array_equal(marked(read(folder, names=["left lung"])), lesion(made))


@AXIAL_ONLY
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"PatientID": "SOMEBODY ELSE"}, "label-of-other-patient"),
        ({"FrameOfReferenceUID": "1.2.3"}, "label-frame-of-reference"),
    ],
)
def test_a_label_of_somebody_or_somewhere_else_is_refused(
    copy: tuple[Path, Any], changes: dict[str, str], code: str
) -> None:
    folder, made = copy
    ds = makers.seg(folder, lesion(made), folder / "seg.dcm")
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(folder / "seg.dcm")
    gathered = read(folder)
    assert not gathered.cases
    assert code in codes(gathered)


@AXIAL_ONLY
def test_a_segmentation_beside_the_voxels_is_refused(copy: tuple[Path, Any]) -> None:
    folder, made = copy
    ds = makers.seg(folder, lesion(made), folder / "seg.dcm")
    for frame in ds.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [v + 2.0 for v in place.ImagePositionPatient]
    ds.save_as(folder / "seg.dcm")
    assert "label-elsewhere" in codes(read(folder))


def stored(mask: Array, affine: Array, order: tuple[int, int, int], flips: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the same mask stored with its axes in another order and direction."""
    turned = mask.transpose(order)
    matrix = affine @ np.eye(4)[:, [*(2 - order[2 - c] for c in range(3)), 3]]
    for axis in flips:
        turned = np.flip(turned, axis)
        column = 2 - axis
        matrix[:3, 3] += matrix[:3, column] * (turned.shape[axis] - 1)
        matrix[:3, column] *= -1
    return np.ascontiguousarray(turned), matrix


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), ()), ((0, 1, 2), (1, 2)), ((2, 0, 1), (0,)), ((1, 2, 0), (0, 1, 2))]
)
def test_nifti_is_placed_by_its_matrix_whatever_its_order(
    copy: tuple[Path, Any], order: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    folder, made = copy
    makers.nifti(*stored(lesion(made), made.affine, order, flips), folder / "label.nii.gz")
    assert np.array_equal(marked(read(folder)), lesion(made))


@AXIAL_ONLY
def test_nifti_with_lungs_in_it_needs_the_value_of_lesions(copy: tuple[Path, Any]) -> None:
    folder, made = copy
    both = np.where(lesion(made), 3, made.lung)
    makers.nifti(both, made.affine, folder / "label.nii")
    assert codes(read(folder)) == {"label-on-air", "series-unlabelled"}
    assert np.array_equal(marked(read(folder, values=[3])), lesion(made))


OBLIQUE = np.array([[0.94, -0.31, 0.14], [0.34, 0.86, -0.37], [-0.003, 0.398, 0.917]])


def test_nifti_of_an_oblique_series_and_of_a_part_of_it(tmp_path: Path) -> None:
    turn = np.linalg.qr(OBLIQUE)[0]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [0.8, 0.8, 2.0], [-61.0, 40.0, 17.0]
    mask = np.random.default_rng(1).random((9, 12, 15)) > 0.7
    part = np.zeros(mask.shape, bool)
    part[2:8, 3:9, 4:14] = mask[2:8, 3:9, 4:14]
    begin = affine.copy()
    begin[:3, 3] += affine[:3, :3] @ [4, 3, 2]
    makers.nifti(mask[2:8, 3:9, 4:14], begin, tmp_path / "part.nii")
    values, matrix = nifti.read(tmp_path / "part.nii")
    out = np.zeros(mask.shape, bool)
    Space(affine, (9, 12, 15)).place(values != 0, matrix, out)
    assert np.array_equal(out, part)
    with pytest.raises(LabelRefused, match="label-outside"):
        Space(affine, (7, 12, 15)).place(values != 0, matrix, np.zeros((7, 12, 15), bool))


def edited(path: Path, change: Callable[[bytearray], None]) -> None:
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)


def test_nifti_that_could_be_mirrored_is_refused(copy: tuple[Path, Any]) -> None:
    folder, made = copy
    path = folder / "label.nii"
    flipped = np.diag([-1.0, -1.0, 1.0, 1.0]) @ made.affine  # LPS written down as if it were RAS
    makers.nifti(lesion(made), flipped, path)
    # where the field of view is centred, the grid is its own mirror image, and only the density of what is marked tells
    assert codes(read(folder)) & {"label-elsewhere", "label-on-air", "label-looks-mirrored"}
    makers.nifti(lesion(made), made.affine, path)
    edited(path, lambda raw: raw.__setitem__(slice(252, 256), struct.pack("<2h", 0, 0)))
    assert "nifti-no-orientation" in codes(read(folder))
    makers.nifti(lesion(made), made.affine, path)
    edited(path, lambda raw: raw.__setitem__(slice(268, 272), struct.pack("<f", 500.0)))
    assert "nifti-two-orientations" in codes(read(folder))
    path.write_bytes(gzip.compress(b"no label at all"))
    assert "nifti-not-read" in codes(read(folder))


@AXIAL_ONLY
def test_a_label_on_lung_that_holds_air_is_refused(copy: tuple[Path, Any]) -> None:
    folder, made = copy
    airy = (made.lung > 0) & (made.array < -820) & (made.lesion == 0)
    makers.seg(folder, airy, folder / "seg.dcm")
    assert "label-on-air" in codes(read(folder))
    assert np.array_equal(marked(read(folder, least_median_hu=-1100.0, least_contrast_hu=-1e4)), airy)


@pytest.mark.parametrize("flips", [(1,), (2,), (1, 2)])
def test_a_label_that_is_denser_in_a_mirror_looks_mirrored(flips: tuple[int, ...]) -> None:
    array = np.random.default_rng(4).normal(-850, 20, (12, 40, 40)).astype(np.float32)
    array[:, 15:25, 15:25] = 40  # what lies between the lungs
    array[4:8, 6:13, 5:11] = -500  # ground glass
    truth = np.zeros(array.shape, bool)
    truth[4:8, 6:13, 5:11] = True
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    volume = Volume(array, affine, 0.0, (), "1", "2", None)
    p = {**own()["lesion"], "least_median_hu": -2000.0}
    plausible.check(volume, Mask.of(truth), p)
    with pytest.raises(LabelRefused, match="label-looks-mirrored"):
        plausible.check(volume, Mask.of(np.flip(truth, flips)), p)


def even_odd(polygons: list[Array], shape: tuple[int, int]) -> Array:
    """Say for every pixel by itself how often a ray to its left crosses an edge."""
    out = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            count = 0
            for points in polygons:
                for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
                    if (y0 > y) != (y1 > y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x:
                        count += 1
            out[y, x] = count % 2 == 1
    return out


def test_contours_have_holes_keyholes_and_count_once() -> None:
    rng = np.random.default_rng(2)
    angle = np.linspace(0, 2 * np.pi, 23, endpoint=False)
    star = np.stack([np.cos(angle), np.sin(angle)], -1) * rng.uniform(4, 11, (23, 1)) + [13.3, 14.1]
    hole = np.stack([np.cos(angle), np.sin(angle)], -1)[::-1] * 2.5 + [13.3, 14.1]
    several = [star, hole, np.array([[22.4, 2.2], [26.7, 2.2], [26.7, 8.9]])]
    assert np.array_equal(contours.inside(several, (28, 30)), even_odd(several, (28, 30)))
    square = np.array([[1.5, 1.5], [8.5, 1.5], [8.5, 8.5], [1.5, 8.5]])
    inner = np.array([[3.5, 3.5], [6.5, 3.5], [6.5, 6.5], [3.5, 6.5]])
    whole, without = contours.inside([square], (10, 10)), contours.inside([square, inner], (10, 10))
    assert (whole.sum(), without.sum()) == (49, 40)
    keyhole = np.concatenate([square, square[:1], inner[:1], inner[::-1], inner[:1]])
    assert np.array_equal(contours.inside([keyhole], (10, 10)), without)
    with pytest.raises(LabelRefused, match="label-outside"):
        contours.inside([square + 3], (10, 10))


def drawn(made: Any, z: float, points: list[tuple[float, float]]) -> Array:
    index = np.array([[x, y, z, 1] for x, y in points])
    return (index @ made.affine.T)[:, :3]


def test_structures_lie_on_the_planes_of_their_series(copy: tuple[Path, Any]) -> None:
    folder, made = copy
    z = int(np.argmax(lesion(made).sum(axis=(1, 2))))
    square = [(10.5, 20.5), (18.5, 20.5), (18.5, 25.5), (10.5, 25.5)]
    hole = [(12.5, 22.5), (14.5, 22.5), (14.5, 23.5), (12.5, 23.5)]
    here = [drawn(made, z, square), drawn(made, z, square), drawn(made, z, hole), drawn(made, z + 1, square)]
    makers.rtstruct(folder, here, folder / "rs.dcm")
    wanted = np.zeros(made.array.shape, bool)
    wanted[z : z + 2, 21:26, 11:19] = True
    wanted[z, 23, 13:15] = False
    assert np.array_equal(marked(read(folder, least_median_hu=-2000.0)), wanted)
    makers.rtstruct(folder, [drawn(made, z + 0.4, square)], folder / "rs.dcm")
    assert "contour-off-plane" in codes(read(folder))
    makers.rtstruct(folder, here, folder / "rs.dcm", PatientID="SOMEBODY ELSE")
    assert "label-of-other-patient" in codes(read(folder))


def test_one_person_is_on_one_side_and_copies_under_two_names_are_nobody(tmp_path: Path) -> None:
    made = makers.chest(tmp_path / "a", 3)
    makers.seg(tmp_path / "a", lesion(made), tmp_path / "a" / "seg.dcm")
    uid = makers.images(tmp_path / "a")[0].SeriesInstanceUID
    alone = read(tmp_path)
    assert [c.side for c in alone.cases] == [data.side("PHANTOM-3", own()["split"])]
    (tmp_path / "b").mkdir()
    for n, ds in enumerate(makers.images(tmp_path / "a")):
        ds.PatientID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "OTHER", uid + ".1", ds.StudyInstanceUID + ".1"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID[:-2] + f"{n:02d}"
        ds.save_as(tmp_path / "b" / f"{n}.dcm")
    both = read(tmp_path, [Row(uid + ".1", "", "normal", "", "")])
    assert not both.cases
    assert [r.item for r in both.refused if r.code == "series-twice"] == [uid, uid + ".1"]
    split = own()["split"]
    shares = [data.side(f"patient {n}", split) for n in range(2000)]
    assert abs(shares.count("train") / 2000 - 0.6) < 0.04
    assert abs(shares.count("held out") / 2000 - 0.2) < 0.04


def test_the_table_gives_classes_and_what_is_wrong_in_it_is_named(tmp_path: Path) -> None:
    made = makers.chest(tmp_path / "a", 3)
    uid = makers.images(tmp_path / "a")[0].SeriesInstanceUID
    (tmp_path / "t.csv").write_text(f"series,class,site,patient\n{uid},normal,North,\n1.2.3,viral,,\n")
    gathered = read(tmp_path, data.table(tmp_path / "t.csv"))
    (case,) = gathered.cases
    assert (case.klass, case.site, case.patient, case.synthetic) == ("normal", "North", "PHANTOM-3", True)
    assert case.lesion is not None
    assert case.lesion.voxels == 0
    assert case.lesion.shape == made.array.shape
    write(gathered.refused, tmp_path / "refused.csv")
    lines = (tmp_path / "refused.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "item,code,en,zh-CN"
    assert [line.split(",")[:2] for line in lines[1:]] == [["1.2.3", "table-no-series"]]
    for row, code in [
        (Row(uid, "", "flu", "", ""), "table-class"),
        (Row(uid, "SOMEBODY ELSE", "normal", "", ""), "series-other-patient"),
    ]:
        wrong = read(tmp_path, [row])
        assert not wrong.cases
        assert code in codes(wrong)
    (tmp_path / "t.csv").write_text("patient,class\n1,normal\n")
    with pytest.raises(SettingsWrong, match="no column series"):
        data.table(tmp_path / "t.csv")


def test_a_file_between_two_series_is_nobodys(tmp_path: Path) -> None:
    made = makers.chest(tmp_path / "a", 3)
    makers.chest(tmp_path / "b", 3, patient_id="B")
    makers.nifti(lesion(made), made.affine, tmp_path / "label.nii")
    assert "label-ambiguous" in codes(read(tmp_path))
    uid = dcmread(next((tmp_path / "a" / "images").iterdir())).SeriesInstanceUID
    gathered = read(tmp_path, [Row(uid, "", "", "", "label.nii")])
    assert [c.uid for c in gathered.cases] == [uid]


def test_settings_of_a_site_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[lesion]\nsteps = 10\nrate = 1\n")
    assert settings(path)["lesion"]["steps"] == 10
    for text in ("[lesion]\nstep = 1", "[lesion]\nsteps = 'many'", "[other]\na = 1", "["):
        path.write_text(text)
        with pytest.raises(SettingsWrong):
            settings(path)


def test_every_refusal_has_its_texts_and_no_text_is_without_one() -> None:
    package = Path(data.__file__).parent
    used: dict[str, set[str]] = {}
    for source in package.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "LabelRefused":
                assert isinstance(node.args[0], ast.Constant), source.name
                used[node.args[0].value] = {str(k.arg) for k in node.keywords}
    texts = tomllib.loads((package / "refusals.toml").read_text(encoding="utf-8"))
    assert set(used) == set(texts)
    for code, row in texts.items():
        assert set(row) == set(LANGUAGES), code
        for text in row.values():
            assert {name for _, name, _, _ in string.Formatter().parse(text) if name} <= used[code], code
