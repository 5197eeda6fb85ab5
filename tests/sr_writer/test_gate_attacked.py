"""The gate is attacked: every fault on every kind of object where it makes sense; the table stands in docs/gate.md."""

import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import phantom
from sr_writer import gate
from sr_writer.gate_claim import Claim
from sr_writer.gate_picture import fonts_embedded
from sr_writer.write import Artifact, Predecessor

pytestmark = pytest.mark.unit

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gate.md"
Change = Callable[[Dataset, Any], object]


class Set:
    """One study with everything that can be written of it, to be spoilt object by object."""

    def __init__(self, case: Any, artifacts: list[Artifact], claim: Claim) -> None:
        self.case, self.claim = case, claim
        self.artifacts = artifacts
        self.uids = [image.sop_instance_uid for image in case.result.geometry.images]
        self.first = {a.kind: a for a in reversed(artifacts)}
        if pictures := [a for a in artifacts if a.kind == "overlay"]:
            self.first["overlay"] = pictures[len(pictures) // 2]

    def neighbour(self, uid: str) -> str:
        z = self.uids.index(uid)
        return str(self.uids[z + 1 if z + 1 < len(self.uids) else z - 1])

    def judged(self, changes: dict[str, Change | None], folder: Path, *, claim: bool = True) -> dict[str, set[str]]:
        """Return for which codes each kind is refused after its change; what is not named stands beside it as it was."""
        spoilt = {}
        for kind, change in changes.items():
            artifact = self.first[kind]
            path = Path(shutil.copy(artifact.path, folder / artifact.name))
            if change is not None:
                ds = pydicom.dcmread(path)
                change(ds, self)
                ds.save_as(path)
            spoilt[kind] = replace(artifact, path=path)
        # reports are held against the segmentation, and name the picture
        beside = [self.first[kind] for kind in ("seg", "sc") if "seg" not in spoilt and kind not in spoilt]
        found = gate.check([*spoilt.values(), *beside], self.case.series.instances, (), self.claim if claim else None)
        return {k: {r.reason.code for r in found if r.artifact is a} for k, a in spoilt.items()}


@pytest.fixture(scope="module")
def study(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Set:
    made = phantom.build(11, slices=16, matrix=(60, 68), patient_name="王^小东", charset="GB18030", shuffle=True)
    folder = tmp_path_factory.mktemp("attacked")
    case = helpers.case(folder, made)
    return Set(case, helpers.everything(case, folder / "out"), helpers.claim(case))


# ---- what is done to them


def items(ds: Dataset) -> Iterator[Dataset]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from items(item)


def planes(ds: Dataset, turn: Callable[[np.ndarray, Dataset], np.ndarray]) -> None:
    bits = np.packbits(turn(ds.pixel_array, ds).astype(np.uint8).reshape(-1), bitorder="little").tobytes()
    ds.PixelData = bits + b"\0" * (len(bits) % 2)


def by_segment(array: np.ndarray, ds: Dataset, turn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Turn the frames of every segment for themselves, as a writer would that has their order wrong."""
    numbers = np.array(
        [g.SegmentIdentificationSequence[0].ReferencedSegmentNumber for g in ds.PerFrameFunctionalGroupsSequence]
    )
    out = array.copy()
    for number in np.unique(numbers):
        out[numbers == number] = turn(array[numbers == number])
    return out


def outlines(change: Callable[[np.ndarray, tuple[int, int]], np.ndarray]) -> Change:
    def apply(ds: Dataset, study: Set) -> None:
        for item in items(ds):
            if "GraphicData" in item and item.GraphicType == "POLYLINE":
                points = np.reshape(np.array(item.GraphicData, float), (-1, 2))
                item.GraphicData = change(points, study.case.result.geometry.shape[1:]).round(2).reshape(-1).tolist()

    return apply


def mirrored(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.stack((shape[1] - points[:, 0], points[:, 1]), axis=1)


def on_next_slice(ds: Dataset, study: Set) -> None:
    """Give every outline to the neighbour of its slice."""
    for item in items(ds):
        for image in [c for c in item.get("ContentSequence") or () if item.get("ValueType") == "SCOORD"]:
            image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = study.neighbour(
                image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            )


def annotations_on_next_slice(ds: Dataset, study: Set) -> None:
    listed = ds.ReferencedSeriesSequence[0].ReferencedImageSequence
    for item in [*listed, *(i for a in ds.GraphicAnnotationSequence for i in a.ReferencedImageSequence)]:
        item.ReferencedSOPInstanceUID = study.neighbour(item.ReferencedSOPInstanceUID)


def picture(turn: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(ds: Dataset, _: Set) -> None:
        data = np.ascontiguousarray(turn(ds.pixel_array)).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)

    return apply


def picture_of_neighbour(ds: Dataset, study: Set) -> None:
    others = {a.path: pydicom.dcmread(a.path) for a in study.artifacts if a.kind == "overlay"}
    wanted = study.neighbour(ds.SourceImageSequence[0].ReferencedSOPInstanceUID)
    ds.PixelData = next(
        o.PixelData for o in others.values() if o.SourceImageSequence[0].ReferencedSOPInstanceUID == wanted
    )


def swapped_patient(ds: Dataset, _: Set) -> None:
    ds.PatientID, ds.PatientName = "SOMEBODY ELSE", "李^四"


def question_marks(ds: Dataset, _: Set) -> None:
    ds.PatientName = "?^??"


def question_marks_in_text(ds: Dataset, _: Set) -> None:
    for item in (ds, *items(ds)):
        for element in item:
            if element.VR in {"UT", "ST", "LO"} and isinstance(element.value, str) and not element.value.isascii():
                element.value = element.value.encode("ascii", "replace").decode()


def missing_instance(ds: Dataset, _: Set) -> None:
    item = next(i for i in items(ds) if "ReferencedSOPInstanceUID" in i)
    item.ReferencedSOPInstanceUID = "2.25.99"


def missing_source_of_a_frame(ds: Dataset, _: Set) -> None:
    group = ds.PerFrameFunctionalGroupsSequence[3]
    group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.99"


def other_frame_of_reference(ds: Dataset, _: Set) -> None:
    ds.FrameOfReferenceUID = "2.25.7"


def other_position(ds: Dataset, _: Set) -> None:
    for item in (ds, *items(ds)):
        if "ImagePositionPatient" in item:
            at = [float(v) for v in item.ImagePositionPatient]
            item.ImagePositionPatient = [at[0], at[1], at[2] + 2.0]


def number(change: Callable[[float], float], code: str) -> Change:
    def apply(ds: Dataset, _: Set) -> None:
        for item in items(ds):
            if item.get("ValueType") != "NUM" or not item.MeasuredValueSequence:
                continue
            if item.ConceptNameCodeSequence[0].CodeValue == code:
                value = item.MeasuredValueSequence[0]
                value.NumericValue = value.FloatingPointValue = round(change(float(value.NumericValue)), 4)
                return

    return apply


def number_in_words(ds: Dataset, _: Set) -> None:
    """Make the first volume in a sentence ten times as large."""
    for item in items(ds):
        for keyword in ("TextValue", "UnformattedTextValue"):
            text = str(item.get(keyword) or "")
            if re.search(r"\d (cm[23]|mm|%)", text):
                setattr(item, keyword, re.sub(r"(\d)( (?:cm[23]|mm|%))", r"\g<1>7\2", text, count=1))
                return
    raise AssertionError("no number in words")


def rejection(ds: Dataset, _: Set) -> None:
    title = ds.ConceptNameCodeSequence[0]
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "113001", "DCM", "Rejected for Quality Reasons"


def drop(*keywords: str) -> Change:
    def apply(ds: Dataset, _: Set) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return apply


ALL = ("seg", "sr", "csr", "text", "kos", "sc", "overlay", "gsps", "pdf")
SEG_FRAMES: dict[str, Callable[[np.ndarray, Dataset], np.ndarray]] = {
    "mirrored": lambda a, _: a[:, :, ::-1],
    "upside down": lambda a, _: a[:, ::-1],
    "shifted by one slice": lambda a, ds: by_segment(a, ds, lambda s: np.roll(s, 1, axis=0)),
    "slices in reverse order": lambda a, ds: by_segment(a, ds, lambda s: s[::-1]),
    "shifted by one pixel": lambda a, _: np.roll(a, 1, axis=2),
    "shifted by one row": lambda a, _: np.roll(a, 1, axis=1),
}

ATTACKS: dict[str, dict[str, tuple[Change, str]]] = {
    "mirrored": {
        "seg": (lambda ds, _: planes(ds, SEG_FRAMES["mirrored"]), "mask-differs"),
        **dict.fromkeys(("sr", "csr", "gsps"), (outlines(mirrored), "outline-differs")),
        "overlay": (picture(lambda a: a[:, ::-1]), "picture-differs"),
    },
    "shifted by one slice": {
        "seg": (lambda ds, _: planes(ds, SEG_FRAMES["shifted by one slice"]), "mask-differs"),
        **dict.fromkeys(("sr", "csr"), (on_next_slice, "outline-differs")),
        "gsps": (annotations_on_next_slice, "outline-differs"),
        "overlay": (picture_of_neighbour, "picture-differs"),
    },
    "slices in reverse order": {
        "seg": (lambda ds, _: planes(ds, SEG_FRAMES["slices in reverse order"]), "mask-differs"),
    },
    "shifted by one pixel": {
        "seg": (lambda ds, _: planes(ds, SEG_FRAMES["shifted by one pixel"]), "mask-differs"),
        **dict.fromkeys(("sr", "csr", "gsps"), (outlines(lambda p, _: np.add(p, (1, 0))), "outline-differs")),
    },
    "another position": dict.fromkeys(("seg", "overlay"), (other_position, "position-differs")),
    "wrong frame of reference": dict.fromkeys(
        ("seg", "overlay"), (other_frame_of_reference, "frame-of-reference-differs")
    ),
    "swapped patient": dict.fromkeys(ALL, (swapped_patient, "identity-differs")),
    "? in a Chinese name": dict.fromkeys(ALL, (question_marks, "identity-differs")),
    "? in Chinese text": dict.fromkeys(("sr", "csr", "text", "kos"), (question_marks_in_text, "text-lost")),
    "reference to a missing instance": {
        **dict.fromkeys(("sr", "csr", "text", "kos", "sc", "overlay", "gsps", "pdf"), (missing_instance, "reference-dangling")),
        "seg": (missing_source_of_a_frame, "reference-dangling"),
    },
    "a number that does not follow from the mask": dict.fromkeys(
        ("sr", "csr"), (number(lambda v: v * 1.01, "118565006"), "number-differs")
    ),
    "another mean density": dict.fromkeys(("sr", "csr"), (number(lambda v: v + 3, "112181"), "number-differs")),
    "another number in words": dict.fromkeys(("sr", "csr", "text", "gsps"), (number_in_words, "number-differs")),
    "rejection note for a source image": {"kos": (rejection, "rejects-what-is-not-ours")},
    "a required attribute is missing": {
        "seg": (drop("ContentLabel"), "required-missing"),
        **dict.fromkeys(("sr", "csr", "text"), (drop("CompletionFlag"), "required-missing")),
        "kos": (drop("ReferencedPerformedProcedureStepSequence"), "required-missing"),
        **dict.fromkeys(("sc", "overlay"), (drop("ConversionType"), "required-missing")),
        "gsps": (drop("PresentationLUTShape"), "required-missing"),
        "pdf": (drop("SourceInstanceSequence"), "required-missing"),
    },
    "a document cut short": {
        "pdf": (lambda ds, _: setattr(ds, "EncapsulatedDocument", ds.EncapsulatedDocument[:4000]), "document-unsound"),
    },
    "drawn outside of the image": {"gsps": (outlines(lambda p, _: p + 1000), "annotation-outside")},
    "not marked as made by AI": {
        **dict.fromkeys(("seg", "sc", "overlay"), (lambda ds, _: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY"]), "not-marked")),
        **dict.fromkeys(("sr", "csr", "text"), (lambda ds, _: setattr(ds, "VerificationFlag", "VERIFIED"), "not-marked")),
        **dict.fromkeys(("kos", "gsps", "pdf"), (drop("ContributingEquipmentSequence"), "not-marked")),
    },
}  # fmt: skip


def test_all_of_it_is_good_before_it_is_spoilt(study: Set) -> None:
    assert {a.kind for a in study.artifacts} == set(ALL)
    found = gate.check(study.artifacts, study.case.series.instances, (), study.claim)
    assert [(r.artifact.name, r.reason.code, dict(r.reason.text)) for r in found] == []


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_is_caught_on_every_kind(study: Set, tmp_path: Path, name: str) -> None:
    attacks = ATTACKS[name]
    found = study.judged({k: change for k, (change, _) in attacks.items() if k != "seg"}, tmp_path)
    if "seg" in attacks:  # for itself: reports are held against it
        found |= study.judged({"seg": attacks["seg"][0]}, tmp_path)
    missed = {k: found[k] for k, (_, code) in attacks.items() if code not in found[k]}
    assert missed == {}
    assert not any("object-unreadable" in codes for codes in found.values()), "a check broke instead of finding it"


def test_the_table_of_attacks_is_the_one_in_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8").split("### Radiographs", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    head = next(line for line in lines if line.startswith("| attack"))
    assert re.findall(r"`(\w+)`", head) == list(ALL)
    told = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in ATTACKS:
            told[cells[0]] = {k for k, cell in zip(ALL, cells[1:], strict=True) if cell.startswith("`")}
            codes = {c.strip("`") for c in cells[1:] if c.startswith("`")}
            assert codes == {code for _, code in ATTACKS[cells[0]].values()}, cells[0]
    assert told == {name: set(kinds) for name, kinds in ATTACKS.items()}


@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_the_raw_pixels_alone_bear_witness_against_misplaced_lungs(helpers: Any, tmp_path: Path, plane: Any) -> None:
    case = helpers.case(tmp_path, phantom.build(21, plane=plane, slices=20, matrix=64))
    study = Set(case, list(helpers.write(case, tmp_path / "out")), helpers.claim(case))
    assert study.judged({"seg": None}, tmp_path, claim=False) == {"seg": set()}
    for name, turn in SEG_FRAMES.items():
        found = study.judged({"seg": lambda ds, _, turn=turn: planes(ds, turn)}, tmp_path, claim=False)
        assert "mask-misplaced" in found["seg"], name


def test_a_rejection_note_may_name_our_own_objects_and_nothing_else(study: Set, tmp_path: Path) -> None:
    kos, seg = study.first["kos"], study.first["seg"]

    def ours(ds: Dataset, _: Set) -> None:
        rejection(ds, study)
        for item in items(ds):
            if "ReferencedSOPInstanceUID" in item:
                item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID = seg.sop_instance_uid, seg.sop_class_uid
            if "ReferencedSOPSequence" in item and "SeriesInstanceUID" in item:
                item.SeriesInstanceUID = seg.series_instance_uid

    assert study.judged({"kos": ours}, tmp_path) == {"kos": set()}
    known = [Predecessor(seg.sop_class_uid, seg.sop_instance_uid, seg.series_instance_uid)]
    note = replace(kos, path=tmp_path / kos.name)
    sources = study.case.series.instances
    assert gate.check([note], sources, known) == ()
    assert {r.reason.code for r in gate.check([note], sources)} == {"reference-dangling", "rejects-what-is-not-ours"}

    def both(ds: Dataset, _: Set) -> None:
        ours(ds, study)
        image = next(i for i in ds.ContentSequence if i.ValueType == "IMAGE")
        source = study.case.series.instances[0]
        reference = image.ReferencedSOPSequence[0]
        reference.ReferencedSOPInstanceUID, reference.ReferencedSOPClassUID = (
            source.sop_instance_uid,
            source.sop_class_uid,
        )

    assert "rejects-what-is-not-ours" in study.judged({"kos": both}, tmp_path)["kos"]


def test_numbers_are_those_of_the_document_too(study: Set, tmp_path: Path) -> None:
    """What cannot be recounted, shares of density classes for instance, must at least be what the analysis said."""

    def glass(ds: Dataset, _: Set) -> None:
        number(lambda v: v / 2, "GGO_CLASS_SHARE")(ds, study)

    assert "number-differs" in study.judged({"sr": glass}, tmp_path)["sr"]

    def bound(ds: Dataset, _: Set) -> None:
        for item in items(ds):
            if item.get("NumericValueQualifierCodeSequence") and item.MeasuredValueSequence:
                del item.NumericValueQualifierCodeSequence
                return

    assert study.judged({"sr": bound}, tmp_path) == {"sr": {"number-differs"}}


def test_a_class_that_nobody_writes_never_leaves(study: Set, tmp_path: Path) -> None:
    def other(ds: Dataset, _: Set) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"

    assert "required-missing" in study.judged({"sc": other}, tmp_path)["sc"]


FONT = b"<< /Type /Font /Subtype /TrueType /BaseFont /WenQuanYi /FontDescriptor 9 0 R >>"
DESCRIPTOR = b"<< /Type /FontDescriptor /FontName /WenQuanYi /FontBBox [0 0 1 1] /FontFile2 8 0 R >>"


@pytest.mark.parametrize(
    ("body", "sound"),
    [
        (FONT + DESCRIPTOR, True),
        (FONT.replace(b"/FontDescriptor 9 0 R ", b""), False),
        (FONT + DESCRIPTOR.replace(b"/FontFile2 8 0 R ", b""), False),
        (b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>", True),
        (b"<< /Type /Font /Subtype /Type1 /BaseFont /STSong-Light >>", False),
        (b"stream\n" + zlib.compress(FONT + DESCRIPTOR) + b"\nendstream", True),
        (b"stream\n" + zlib.compress(FONT.replace(b"/FontDescriptor 9 0 R ", b"")) + b"\nendstream", False),
    ],
)
def test_a_pdf_document_brings_its_fonts(body: bytes, sound: bool) -> None:
    assert fonts_embedded(b"%PDF-1.4\n" + body + b"\n%%EOF") is sound


def test_a_number_is_the_same_in_both_of_its_spellings(study: Set, tmp_path: Path) -> None:
    """Viewers show Numeric Value (0040,A30A), not the floating point number beside it."""

    def tenfold(ds: Dataset, _: Set) -> None:
        for item in items(ds):
            if item.get("ValueType") == "NUM" and item.get("MeasuredValueSequence"):
                value = item.MeasuredValueSequence[0]
                value.NumericValue = round(float(value.NumericValue) * 10, 3)

    found = study.judged(dict.fromkeys(("sr", "csr"), tenfold), tmp_path)
    assert found == {key: {"number-differs"} for key in ("sr", "csr")}


def test_a_number_stands_nowhere_but_in_a_measurement_group(study: Set, tmp_path: Path) -> None:
    def beside(ds: Dataset, _: Set) -> None:
        ds.ContentSequence.append(next(i for i in items(ds) if i.get("ValueType") == "NUM"))

    assert study.judged({"sr": beside}, tmp_path) == {"sr": {"number-differs"}}


@pytest.mark.parametrize(("code", "scheme"), [(" 113001", "DCM"), ("113001", " DCM"), ("113001", "dcm")])
def test_a_rejection_note_is_one_however_its_title_is_spelled(
    study: Set, tmp_path: Path, code: str, scheme: str
) -> None:
    def spelled(ds: Dataset, _: Set) -> None:
        title = ds.ConceptNameCodeSequence[0]
        title.CodeValue, title.CodingSchemeDesignator = code, scheme

    assert "rejects-what-is-not-ours" in study.judged({"kos": spelled}, tmp_path)["kos"]


def test_two_objects_have_two_uids(study: Set, tmp_path: Path) -> None:
    sc, kos = study.first["sc"], study.first["kos"]
    ds = pydicom.dcmread(kos.path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = sc.sop_instance_uid
    ds.save_as(tmp_path / "kos.dcm")
    twin = replace(kos, path=tmp_path / "kos.dcm", sop_instance_uid=sc.sop_instance_uid)
    found = gate.check([sc, twin], study.case.series.instances, (), study.claim)
    assert {r.reason.code for r in found if r.artifact is twin} == {"uid-collides"}


def test_chinese_labels_say_the_side_too(study: Set, tmp_path: Path) -> None:
    def swapped(ds: Dataset, _: Set) -> None:
        ds.SpecificCharacterSet = "GB18030"
        for segment in ds.SegmentSequence[:2]:
            segment.SegmentLabel = "右肺" if "left" in str(segment.SegmentLabel) else "左肺"

    assert "side-differs" in study.judged({"seg": swapped}, tmp_path)["seg"]


def test_labels_of_two_findings_are_not_exchanged(study: Set, tmp_path: Path) -> None:
    def exchanged(ds: Dataset, _: Set) -> None:
        one, two = [s for s in ds.SegmentSequence if str(s.TrackingID).startswith("opacity")][:2]
        one.SegmentLabel, two.SegmentLabel = two.SegmentLabel, one.SegmentLabel

    assert study.judged({"seg": exchanged}, tmp_path) == {"seg": {"segments-inconsistent"}}


def turned(ds: Dataset, _: Set) -> None:
    ds.ImageHorizontalFlip, ds.ImageRotation = "Y", 0


def covered(ds: Dataset, _: Set) -> None:
    ds.ShutterShape = "RECTANGULAR"


def rescaled(ds: Dataset, _: Set) -> None:
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 2, 500, "HU"


def inverted(ds: Dataset, _: Set) -> None:
    ds.PresentationLUTShape = "INVERSE"


def windowed(ds: Dataset, _: Set) -> None:
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 3000, 1
    ds.SoftcopyVOILUTSequence = [window]


def drawings(ds: Dataset, kind: str) -> list[Dataset]:
    return [
        g for a in ds.GraphicAnnotationSequence for g in a.get("GraphicObjectSequence") or () if g.GraphicType == kind
    ]


def opened(ds: Dataset, study: Set) -> None:
    """Lines that are not closed are no outlines: nobody could say whether they lie right."""
    columns = study.case.result.geometry.shape[2]
    for line in drawings(ds, "POLYLINE"):
        points = np.array(line.GraphicData, float).reshape(-1, 2)[:-1]
        points[:, 0] = columns - points[:, 0]
        line.GraphicData, line.NumberOfGraphicPoints = [float(v) for v in points.reshape(-1)], len(points)


def encircled_elsewhere(ds: Dataset, study: Set) -> None:
    columns = study.case.result.geometry.shape[2]
    assert drawings(ds, "CIRCLE")
    for circle in drawings(ds, "CIRCLE"):
        points = np.array(circle.GraphicData, float).reshape(-1, 2)
        points[:, 0] = columns - points[:, 0]
        circle.GraphicData = [float(v) for v in points.reshape(-1)]


def measured_otherwise(ds: Dataset, _: Set) -> None:
    ds.DisplayedAreaSelectionSequence[0].PresentationPixelSpacing = [9.9, 9.9]


@pytest.mark.parametrize(
    ("change", "code"),
    [(turned, "picture-differs"), (covered, "picture-differs"), (rescaled, "picture-differs"), (inverted, "picture-differs"),
     (windowed, "picture-differs"), (opened, "outline-differs"), (encircled_elsewhere, "outline-differs"),
     (measured_otherwise, "geometry-differs")],
)  # fmt: skip
def test_a_presentation_state_shows_the_image_as_it_is(study: Set, tmp_path: Path, change: Change, code: str) -> None:
    assert study.judged({"gsps": change}, tmp_path) == {"gsps": {code}}


@pytest.mark.parametrize(
    ("keyword", "value"), [("PlanarConfiguration", 1), ("PhotometricInterpretation", "YBR_FULL"), ("BitsStored", 4)]
)
def test_a_picture_is_stored_as_the_gate_reads_it(study: Set, tmp_path: Path, keyword: str, value: object) -> None:
    def stored(ds: Dataset, _: Set) -> None:
        setattr(ds, keyword, value)

    found = study.judged(dict.fromkeys(("sc", "overlay"), stored), tmp_path)
    assert found == {key: {"picture-differs"} for key in ("sc", "overlay")}


def test_a_blank_picture_of_a_slice_shows_nothing(study: Set, tmp_path: Path) -> None:
    assert study.judged({"overlay": picture(np.zeros_like)}, tmp_path) == {"overlay": {"picture-differs"}}


def test_a_picture_of_a_slice_says_where_it_lies(study: Set, tmp_path: Path) -> None:
    """Without a place nobody would see that it is mirrored."""

    def nowhere(ds: Dataset, _: Set) -> None:
        del ds.ImagePositionPatient, ds.FrameOfReferenceUID
        picture(lambda a: a[:, ::-1])(ds, study)

    assert "position-differs" in study.judged({"overlay": nowhere}, tmp_path)["overlay"]


def test_what_was_found_is_what_the_analysis_said(study: Set, tmp_path: Path) -> None:
    def cancer(ds: Dataset, _: Set) -> None:
        for item in items(ds):
            if item.get("CodeValue") == "112001":
                item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "86049000", "SCT", "Malignant neoplasm"

    assert "segments-inconsistent" in study.judged({"seg": cancer}, tmp_path)["seg"]
    assert study.judged({"sr": cancer}, tmp_path) == {"sr": {"tracking-differs"}}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("StudyDate", "19990101"), ("StudyTime", "010101"), ("StudyDescription", "MR knee"), ("PatientAge", "001Y"),
     ("ReferringPhysicianName", "Else^Somebody"), ("OtherPatientIDs", "ELSE"), ("PatientComments", "Else")],
)  # fmt: skip
def test_every_attribute_of_patient_and_study_is_the_source_s(
    study: Set, tmp_path: Path, keyword: str, value: str
) -> None:
    changes: dict[str, Change | None] = dict.fromkeys(("sr", "sc", "pdf"), lambda ds, _: setattr(ds, keyword, value))
    assert study.judged(changes, tmp_path) == {key: {"identity-differs"} for key in changes}


@pytest.mark.parametrize(
    ("declared", "codes"),
    [(b"CS\x0a\x00ISO_IR 100", {"identity-differs"}), (b"CS\x08\x00        ", {"identity-differs", "text-lost"})],
)
def test_bytes_of_a_name_under_another_character_set_are_another_name(
    study: Set, tmp_path: Path, declared: bytes, codes: set[str]
) -> None:
    """王 in GB18030 is a name of Latin letters where ISO_IR 100 is declared, and none where nothing is."""
    kos = study.first["kos"]
    data = kos.path.read_bytes()
    assert data.count(b"\x08\x00\x05\x00CS\x08\x00GB18030 ") == 1
    path = tmp_path / kos.name
    path.write_bytes(data.replace(b"CS\x08\x00GB18030 ", declared, 1))
    assert str(pydicom.dcmread(path).PatientName) != str(pydicom.dcmread(kos.path).PatientName)
    spoilt = replace(kos, path=path)
    found = gate.check([spoilt, study.first["seg"]], study.case.series.instances, (), study.claim)
    assert {r.reason.code for r in found if r.artifact is spoilt} & codes


def test_uids_that_the_source_has_are_named_whatever_their_form(helpers: Any, tmp_path: Path) -> None:
    """Some scanners write components with leading zeros (PS3.5 section 9.1 forbids them); their images count all the same."""
    made = phantom.build(11, slices=10, matrix=48)
    phantom.write(made, tmp_path)
    for n, path in enumerate(sorted((tmp_path / "dicom").rglob("*.dcm"))):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.840.99.0{n}"
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.840.01.5", "1.2.840.01.6"
        ds.save_as(path)
    case = helpers.from_folder(tmp_path)
    found = gate.check(helpers.write(case, tmp_path / "out"), case.series.instances, (), helpers.claim(case))
    assert [(r.artifact.name, r.reason.code) for r in found] == []
