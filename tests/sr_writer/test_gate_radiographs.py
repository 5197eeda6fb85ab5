"""Results on radiographs: everything that is written passes the gate, and what is spoilt does not; table in docs/gate.md."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from sr_writer import gate
from sr_writer.profiles import Form, Piece
from tests.sr_writer.graded import claim_of as graded_claim
from tests.sr_writer.graded import graded
from tests.sr_writer.radiographs import (
    BESIDE,
    CARDS,
    claim_of,
    from_folder,
    radiograph_cards,
    radiograph_case,
    radiograph_written,
)
from tests.sr_writer.test_gate_attacked import (
    ALL,
    DOCS,
    Change,
    Set,
    drop,
    items,
    mirrored,
    missing_instance,
    number,
    number_in_words,
    other_frame_of_reference,
    outlines,
    picture,
    planes,
    question_marks,
    swapped_patient,
)

pytestmark = pytest.mark.unit

WITHOUT_SEG = (Piece(Form("gsps")), Piece(Form("sr"), (Form("gsps"),)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Set:
    folder = tmp_path_factory.mktemp("radiograph")
    case = radiograph_case(folder, "DX", "GB18030", patient_name="王^小东", photometric="MONOCHROME1")
    return Set(case, radiograph_written(case, folder / "out"), claim_of(case))


@pytest.fixture(scope="module")
def alone(study: Set, tmp_path_factory: pytest.TempPathFactory) -> Set:
    """The same without a segmentation, as it leaves as a rule."""
    written = radiograph_written(study.case, tmp_path_factory.mktemp("alone"), WITHOUT_SEG)
    assert gate.check(written, study.case.series.instances, (), study.claim) == ()
    return Set(study.case, written, study.claim)


def sides(ds: Dataset, _: Set) -> None:
    """Say left where right is, and the other way round: in codes and in labels."""
    for item in items(ds):
        if item.get("CodeValue") in {"7771000", "24028007"}:
            item.CodeValue = "7771000" if item.CodeValue == "24028007" else "24028007"
        if "SegmentLabel" in item:
            words = {"left": "right", "right": "left"}
            item.SegmentLabel = " ".join(words.get(w, w) for w in item.SegmentLabel.split())


def turned(ds: Dataset, _: Set) -> None:
    ds.PatientOrientation = ["R", "F"]


def renamed(old: str, new: str) -> Change:
    """Call a number by another name, as if it were measured elsewhere."""

    def apply(ds: Dataset, _: Set) -> None:
        for item in items(ds):
            if item.get("CodeValue") == old:
                item.CodeValue, item.CodingSchemeDesignator = new, "SCT"

    return apply


def volume(ds: Dataset, _: Set) -> None:
    """Make cubic centimetres of the first area."""
    unit = next(i for i in items(ds) if i.get("CodeValue") == "cm2")
    unit.CodeValue, unit.CodeMeaning = "cm3", "cubic centimeter"


def negative_of(ds: Dataset, _: Set) -> None:
    ds.PresentationLUTShape = "IDENTITY"


def inverted(array: np.ndarray) -> np.ndarray:
    grey = (array[..., 0] == array[..., 1]) & (array[..., 1] == array[..., 2])
    return np.where(grey[..., None], 255 - array, array)


def other_size(ds: Dataset, _: Set) -> None:
    ds.PixelSpacing = [0.5, 0.5]


def below(turn: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Turn over the image on the summary, and nothing else of that picture."""

    def apply(ds: Dataset, study: Set) -> None:
        left, right, top, bottom = map(int, re.findall(r"\d+", ds.DerivationDescription))
        array = ds.pixel_array.copy()
        part = array[top : bottom + 1, left : right + 1]
        array[top : bottom + 1, left : right + 1] = turn(part)
        picture(lambda _: array)(ds, study)

    return apply


REPORTS = ("sr", "csr")
ATTACKS: dict[str, dict[str, tuple[Change, str]]] = {
    "mirrored": {
        "seg": (lambda ds, _: planes(ds, lambda a, _: a[:, :, ::-1]), "mask-differs"),
        **dict.fromkeys((*REPORTS, "gsps"), (outlines(mirrored), "outline-differs")),
        "sc": (below(lambda a: a[:, ::-1]), "picture-differs"),
        "overlay": (picture(lambda a: a[:, ::-1]), "picture-differs"),
    },
    "upside down": {
        "sc": (below(lambda a: a[::-1]), "picture-differs"),
        "overlay": (picture(lambda a: a[::-1]), "picture-differs"),
    },
    "black and white exchanged": {
        "sc": (below(inverted), "picture-differs"),
        "overlay": (picture(inverted), "picture-differs"),
        "gsps": (negative_of, "picture-differs"),
    },
    "shifted by one pixel": {
        "seg": (lambda ds, _: planes(ds, lambda a, _: np.roll(a, 1, axis=2)), "mask-differs"),
        **dict.fromkeys((*REPORTS, "gsps"), (outlines(lambda p, _: np.add(p, (1, 0))), "outline-differs")),
    },
    "left and right exchanged in words": dict.fromkeys(("seg", *REPORTS), (sides, "side-differs")),
    "another patient orientation": dict.fromkeys(("seg", "overlay"), (turned, "geometry-differs")),
    "another pixel size": {"overlay": (other_size, "geometry-differs")},
    "a place in the patient": dict.fromkeys(("seg", "overlay"), (other_frame_of_reference, "frame-of-reference-differs")),
    "an area that does not follow from the mask": dict.fromkeys(
        REPORTS, (number(lambda v: v * 1.01, "AREA_AT_DETECTOR"), "number-differs")
    ),
    "another share": dict.fromkeys(REPORTS, (number(lambda v: v + 1, "SHADOW_SHARE"), "number-differs")),
    "measured at the detector, said of the patient": dict.fromkeys(
        REPORTS, (renamed("AREA_AT_DETECTOR", "42798000"), "number-differs")
    ),
    "a volume of a shadow": dict.fromkeys(REPORTS, (volume, "number-differs")),
    "another number in words": dict.fromkeys((*REPORTS, "text", "gsps"), (number_in_words, "number-differs")),
    "swapped patient": dict.fromkeys(ALL, (swapped_patient, "identity-differs")),
    "? in a Chinese name": dict.fromkeys(ALL, (question_marks, "identity-differs")),
    "reference to a missing instance": dict.fromkeys(
        [k for k in ALL if k != "seg"], (missing_instance, "reference-dangling")
    ),
    "no patient orientation": {"seg": (drop("PatientOrientation"), "geometry-differs")},
}  # fmt: skip


def test_all_of_it_is_good_before_it_is_spoilt(study: Set) -> None:
    assert {a.kind for a in study.artifacts} == set(ALL)
    found = gate.check(study.artifacts, study.case.series.instances, (), study.claim)
    assert [(r.artifact.name, r.reason.code, dict(r.reason.text)) for r in found] == []


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_on_objects_of_a_radiograph_is_caught(study: Set, tmp_path: Path, name: str) -> None:
    attacks = ATTACKS[name]
    found = study.judged({k: change for k, (change, _) in attacks.items() if k != "seg"}, tmp_path)
    if "seg" in attacks:
        found |= study.judged({"seg": attacks["seg"][0]}, tmp_path)
    missed = {k: found[k] for k, (_, code) in attacks.items() if code not in found[k]}
    assert missed == {}
    assert not any("object-unreadable" in codes for codes in found.values()), "a check broke instead of finding it"


@pytest.mark.parametrize(
    "name",
    ["mirrored", "shifted by one pixel", "left and right exchanged in words", "an area that does not follow from the mask", "another share"],
)  # fmt: skip
def test_masks_that_no_segmentation_shows_are_held_against_the_report_all_the_same(
    alone: Set, tmp_path: Path, name: str
) -> None:
    for kind, (change, code) in ATTACKS[name].items():
        if kind in {"sr", "gsps"}:
            path = Path(shutil.copy(alone.first[kind].path, tmp_path / f"{kind}.dcm"))
            ds = pydicom.dcmread(path)
            change(ds, alone)
            ds.save_as(path)
            spoilt = [replace(a, path=path) if a.kind == kind else a for a in alone.artifacts]
            found = gate.check(spoilt, alone.case.series.instances, (), alone.claim)
            assert code in {r.reason.code for r in found if r.artifact.kind == kind}, kind


@pytest.mark.parametrize(
    "name", ["measured at the detector, said of the patient", "a volume of a shadow", "another share"]
)
def test_what_a_shadow_cannot_measure_is_refused_whoever_says_it(study: Set, tmp_path: Path, name: str) -> None:
    """Without what the analysis said, as of objects that others made."""
    change, code = ATTACKS[name]["sr"]
    assert code not in study.judged({"sr": None}, tmp_path, claim=False)["sr"]
    assert code in study.judged({"sr": change}, tmp_path, claim=False)["sr"]


def test_the_table_of_attacks_is_the_one_in_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8").split("### Radiographs", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    head = next(line for line in lines if line.startswith("| attack"))
    assert re.findall(r"`(\w+)`", head) == list(ALL)
    told = {}
    for line in lines[1:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in ATTACKS:
            told[cells[0]] = {
                k: cell.strip("`") for k, cell in zip(ALL, cells[1:], strict=True) if cell.startswith("`")
            }
    assert told == {name: {k: code for k, (_, code) in kinds.items()} for name, kinds in ATTACKS.items()}


@pytest.mark.parametrize(
    "case",
    [
        {"modality": "CR", "negative": True, "calibrated": True},
        {"modality": "DX", "view": "AP", "bits": 16, "charset": "ISO_IR 100", "patient_name": "Müller^Jürgen", "rows": 75, "columns": 130},
    ],
)  # fmt: skip
def test_good_results_and_cards_pass(tmp_path: Path, case: dict[str, Any]) -> None:
    made = radiograph_case(tmp_path, **case)
    written = radiograph_written(made, tmp_path / "out")
    sources = made.series.instances
    found = gate.check(written, sources, (), claim_of(made))
    assert [(r.artifact.name, r.reason.code, dict(r.reason.text)) for r in found] == []
    expected = {f.object for f in BESIDE} | {"sr", "csr"}
    assert {a.kind for a in written} == (expected - {"gsps", "kos"} if case.get("negative") else expected)
    cards = radiograph_cards(made, tmp_path / "cards")
    assert {a.kind for a in cards} == {p.form.object for p in CARDS}
    assert gate.check(cards, sources) == ()


def noise(_: Dataset, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4096, shape).astype(np.uint16)


def falling_table(ds: Dataset, shape: tuple[int, int]) -> np.ndarray:
    """Show high values dark, though the image says MONOCHROME2."""
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    item.add_new("LUTData", "OW", np.arange(4095, -1, -1, dtype="<u2").tobytes())
    ds.VOILUTSequence = [item]
    return ndimage.zoom(ds.pixel_array, 8, order=1)[: shape[0], : shape[1]]


def narrow_window(ds: Dataset, shape: tuple[int, int]) -> np.ndarray:
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 1500, 80, "LINEAR"
    return noise(ds, shape)


def one_bright_pixel(_: Dataset, shape: tuple[int, int]) -> np.ndarray:
    array = np.full(shape, 1000, np.uint16)
    array[shape[0] // 2, shape[1] // 3] = 4095
    return array


@pytest.mark.parametrize("odd", [noise, falling_table, narrow_window, one_bright_pixel])
def test_a_grade_of_an_odd_radiograph_passes_and_its_picture_spoilt_does_not(
    tmp_path: Path, odd: Callable[[Dataset, tuple[int, int]], np.ndarray]
) -> None:
    radiograph_case(tmp_path, negative=True)
    path = tmp_path / "dicom" / "0001.dcm"
    ds = pydicom.dcmread(path)
    with np.load(tmp_path / "truth.npz") as stored:
        large = {k: np.kron(v, np.ones((8, 8), bool)) for k, v in stored.items() if k != "opacities"}
    np.savez(tmp_path / "truth.npz", **large)
    shape = 8 * ds.Rows, 8 * ds.Columns
    ds.PixelData = odd(ds, shape).tobytes()
    ds.Rows, ds.Columns = shape
    ds.save_as(path)
    made = graded(from_folder(tmp_path, negative=True), "D")
    claim = graded_claim(made)
    written = radiograph_written(made, tmp_path / "out", (Piece(Form("sc")), Piece(Form("overlay"))))
    assert gate.check(written, made.series.instances, (), claim) == ()
    study = Set(made, written, claim)
    for name in () if odd is one_bright_pixel else ("mirrored", "upside down", "black and white exchanged"):
        for artifact in written:
            path = Path(shutil.copy(artifact.path, tmp_path / "spoilt.dcm"))
            ds = pydicom.dcmread(path)
            ATTACKS[name][artifact.kind][0](ds, study)
            ds.save_as(path)
            found = gate.check([replace(artifact, path=path)], made.series.instances, (), claim)
            assert "picture-differs" in {r.reason.code for r in found}, (name, artifact.kind)
