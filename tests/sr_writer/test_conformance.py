"""The project's list of assertions over the matrix; the number of the assertion stands in the name of its test.

What stands where says docs/what-is-checked.md. Every object of every pair of values is judged with each change, all that there
can be by ``make conformance``.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from sr_writer.identity import authored_by
from sr_writer.profiles import REPORTS
from tests.sr_writer import judges, matrix, rules
from tests.sr_writer.authored import Author, Authored
from tests.sr_writer.matrix import GEOMETRIES, KINDS
from tests.sr_writer.reading import content, groups, masks, named, texts, tracked

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # pydicom remarks on character sets
    pytest.mark.timeout(1800),  # the first of a part writes all of it
]

TRACKED = ("sr", "csr", "card_sr", "card_csr")
DOCUMENTS = (*TRACKED, "text", "card_text", "kos", "quality_kos", "rejection")
SEEN: dict[str, set[judges.Allowed]] = {}
"""Part of the matrix -> messages of the baseline that were heard."""

Rule = Callable[[Authored], Iterable[object]]


@pytest.fixture(scope="module")
def author(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Author:
    return Author(helpers, tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module", params=["pairs", *(pytest.param(g, marks=pytest.mark.long) for g in GEOMETRIES)])
def part(request: pytest.FixtureRequest) -> str:
    """Every pair of values; then everything, one geometry after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def matrix_of(author: Author, part: str) -> list[Authored]:
    rows = matrix.pairwise() if part == "pairs" else [r for r in matrix.whole() if r.geometry == part]
    return author.author(rows, part.replace(" ", "_"))


def of(objects: Iterable[Authored], *kinds: str) -> list[Authored]:
    """Return the objects of these kinds."""
    return [o for o in objects if KINDS[o.row.kind].object in kinds]


def wrong(objects: Iterable[Authored], rule: Rule) -> list[str]:
    """Return what a rule has against objects, and against which."""
    return [f"{o}: {said}" for o in objects for said in rule(o)]


def judged(part: str, objects: Iterable[Authored], messages: Iterable[judges.Message]) -> list[str]:
    """Return the messages that are not in the baseline, each text once."""
    by_path = {path: (o, ds) for o in objects for path, ds in zip(o.paths, o.objects, strict=True)}
    heard, rest = SEEN.setdefault(part, set()), dict[str, str]()
    for message in messages:
        about = [by_path[path] for path in message.paths]
        allowed = [a for a in judges.baseline() if any(a.covers(message, ds) for _, ds in about)]
        heard.update(allowed)
        if not allowed:
            rest.setdefault(f"{message.judge}: {message.text}", str(about[0][0]))
    return [f"{o}: {text}" for text, o in rest.items()]


def test_01_dciodvfy_finds_nothing_new(part: str, matrix_of: list[Authored]) -> None:
    paths = [p for o in matrix_of for p in o.paths[:1] + o.paths[1:][-1:]]
    assert judged(part, matrix_of, judges.dciodvfy(paths)) == []


def test_02_dcentvfy_sees_one_patient_and_study(part: str, matrix_of: list[Authored]) -> None:
    together: dict[tuple[str, str], list[Authored]] = {}
    for o in matrix_of:
        together.setdefault((o.row.geometry, o.row.sender), []).append(o)
    messages = [
        m
        for some in together.values()
        for m in judges.dcentvfy(
            [i.path for i in some[0].case.series.instances[:2]], [p for o in some for p in o.paths]
        )
    ]
    assert judged(part, matrix_of, messages) == []


def test_03_pixelmed_finds_nothing_new(part: str, matrix_of: list[Authored]) -> None:
    paths = [p for o in of(matrix_of, *DOCUMENTS) for p in o.paths]
    assert judged(part, matrix_of, judges.pixelmed(paths)) == []


def test_03_dsrdump_reads_every_document(part: str, matrix_of: list[Authored]) -> None:
    paths = [p for o in of(matrix_of, *DOCUMENTS) for p in o.paths]
    assert judged(part, matrix_of, judges.dsrdump(paths)) == []


def test_04_dcmdump_reads_every_file_and_meta_agrees(matrix_of: list[Authored]) -> None:
    read = judges.run("dcmdump", "-q", *(p for o in matrix_of for p in o.paths))
    assert (read.returncode, read.stderr) == (0, "")

    assert wrong(matrix_of, rules.file_meta) == []


def test_05_the_transfer_syntax_is_the_one_asked_for(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.transfer_syntax) == []


def test_06_identity_is_the_sources(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.identity) == []


def test_07_the_name_is_the_sources(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.name) == []


def test_08_10_no_text_lost_a_character(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.lost_characters) == []


def test_09_10_the_character_set_holds_every_text(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.character_set) == []
    documents = of(matrix_of, *DOCUMENTS, "gsps")
    assert all(any(ord(c) > 0x4E00 for _, text in texts(o.ds) for c in text) for o in documents)


def test_12_14_uids_are_new_unique_and_valid(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.uids) == []
    # another sender means other input bytes, another outcome another statement: nothing is said twice under one UID
    made = [a.sop_instance_uid for o in matrix_of for a in o.artifacts]
    assert len(set(made)) == len(made)


def test_13_the_same_again_is_the_same_bytes(author: Author, part: str, matrix_of: list[Authored]) -> None:
    once = {o.row.kind: o for o in matrix_of}
    wanted = list({r: None for o in once.values() for r in (*o.row.needs, o.row)})
    again = {o.row: o for o in author.author(wanted, f"{part.replace(' ', '_')}-again")}

    def rule(o: Authored) -> Iterator[object]:
        for a, b in zip(o.paths, again[o.row].paths, strict=True):
            if a.read_bytes() != b.read_bytes():
                yield a.name

    assert wrong(once.values(), rule) == []


def test_15_16_one_object_a_series_that_says_ai(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.series) == []
    series = {(a.series_instance_uid, o.row) for o in matrix_of for a in o.artifacts}
    assert len({uid for uid, _ in series}) == len(series)


def test_17_18_never_verified_and_partial_only_where_it_failed(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, *TRACKED, "text", "card_text"), rules.flags) == []
    segments = [s for o in of(matrix_of, "seg") for s in o.ds.SegmentSequence]
    assert {s.SegmentAlgorithmType for s in segments} <= {"AUTOMATIC"}


def test_19_equipment_names_node_and_algorithm(matrix_of: list[Authored], helpers: Any) -> None:
    def rule(o: Authored) -> Iterator[object]:
        for ds in o.objects:
            node, algorithm = ds.ContributingEquipmentSequence
            if algorithm.SoftwareVersions[0] != "0.1.0" or not algorithm.DeviceUID:
                yield algorithm
            if {e.PurposeOfReferenceCodeSequence[0].CodeValue for e in (node, algorithm)} != {"109102"}:
                yield node
            if not authored_by(ds, helpers.installation) or authored_by(ds, "another installation"):
                yield "authored by"

    assert wrong(matrix_of, rule) == []


def test_21_root_template_language_and_observer(matrix_of: list[Authored]) -> None:

    assert wrong(of(matrix_of, *DOCUMENTS), rules.root) == []


def test_22_23_every_group_is_tracked_and_says_what_of(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, *TRACKED), rules.group_tracking) == []


def test_24_every_reference_is_evidence_and_there(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, *DOCUMENTS), rules.references) == []


@pytest.fixture(scope="module")
def told(matrix_of: list[Authored]) -> list[tuple[Authored, pydicom.FileDataset]]:
    """Every report with the segmentation that it refers to."""
    by_uid = {a.sop_instance_uid: o.ds for o in of(matrix_of, "seg") for a in o.artifacts}
    found = [(o, by_uid[o.segmentation.sop_instance_uid]) for o in of(matrix_of, *REPORTS) if o.segmentation]
    assert len(found) == len([o for o in of(matrix_of, *REPORTS) if o.row.needs])
    return found


def test_25_tracking_is_the_same_in_report_and_segmentation(told: Any) -> None:
    for o, seg in told:
        things = tracked(o.ds)
        for segment in seg.SegmentSequence:
            some = things[segment.TrackingUID]
            assert {named(g, "112039")[0].TextValue for g in some} == {segment.TrackingID}, o
            numbers = [i.ReferencedSOPSequence[0].ReferencedSegmentNumber for i in named(some[-1], "121191")]
            assert numbers == ([] if o.radiograph else [segment.SegmentNumber]), o  # there outlines say where
        assert {f.tracking_id for f in o.case.result.findings} <= {s.TrackingID for s in seg.SegmentSequence}, o


def test_26_27_numbers_follow_from_the_segmentation(told: Any) -> None:
    for o, seg in told:
        size, voxel = rules.voxel(o, seg)
        shown = masks(seg, rules.order(o))
        lesions = [int(s.SegmentNumber) for s in seg.SegmentSequence if "opacity" in s.TrackingID]
        opaque = np.any([np.zeros_like(shown[1]), *(shown[n] for n in lesions)], axis=0)
        things = tracked(o.ds)
        for segment in seg.SegmentSequence:
            mask = shown[int(segment.SegmentNumber)]
            values = rules.values(things[segment.TrackingUID][-1])
            assert values[size] == pytest.approx(mask.sum() * voxel, rel=1e-3), o
            for share in {"OPACITY_SHARE", "SHADOW_SHARE"} & set(values):
                assert values[share] == pytest.approx(100 * (mask & opaque).sum() / mask.sum(), rel=1e-3), o


def test_28_30_every_code_is_standard_or_ours(matrix_of: list[Authored]) -> None:

    assert wrong(matrix_of, rules.foreign_codes) == []


def test_29_the_private_scheme_is_declared_where_it_is_used(matrix_of: list[Authored]) -> None:
    assert wrong(matrix_of, rules.declared_scheme) == []


def test_31_numbers_are_finite_or_say_why_not(matrix_of: list[Authored]) -> None:
    reports = of(matrix_of, *REPORTS)
    assert wrong(reports, rules.numbers) == []
    on_slices = [
        o for o in reports if o.row.needs and not o.radiograph
    ]  # each of these results has one that is missing
    missing = [i for o in on_slices for i in content(o.ds) if i.ValueType == "NUM" and not i.MeasuredValueSequence]
    assert len(missing) >= len(on_slices)


def test_32_33_the_segmentation_lies_on_its_slices(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, "seg"), rules.places) == []


def test_34_36_masks_come_back_voxel_for_voxel_and_none_is_empty(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, "seg"), rules.voxels) == []


def test_34_laterality_stands_inside_the_type(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, "seg"), rules.sides) == []


def test_35_dcmqi_reads_the_masks_voxel_for_voxel(matrix_of: list[Authored], tmp_path: Path) -> None:
    def rule(o: Authored) -> Iterator[object]:
        read = judges.run(
            "segimage2itkimage", "--inputDICOM", o.paths[0], "--outputDirectory", tmp_path, "--outputType", "nrrd",
            "--prefix", "s",
        )  # fmt: skip
        if read.returncode:
            yield read.stderr
            return
        to_index = np.linalg.inv(o.case.result.geometry.affine)
        label_map = o.row.kind == "seg labelmap"  # of which one file is made
        for segment in o.case.result.segments:
            image = SimpleITK.ReadImage(str(tmp_path / f"s-{1 if label_map else segment.number}.nrrd"))
            array = SimpleITK.GetArrayViewFromImage(image)
            found = np.argwhere(array == (segment.number if label_map else array.max()))[:, ::-1]
            direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
            index = (found @ direction.T + image.GetOrigin()) @ to_index[:3, :3].T + to_index[:3, 3]
            if np.abs(index - index.round()).max() > 0.02:
                yield f"{segment.tracking_id}: between voxels"
            expected = np.argwhere(segment.mask.box) + segment.mask.offset
            if {tuple(i) for i in index.round().astype(int)[:, ::-1].tolist()} != {tuple(i) for i in expected.tolist()}:
                yield segment.tracking_id

    # an image of ITK has no place for a gantry tilt, and none of a radiograph has a place
    tilted = {name for name, scan in GEOMETRIES.items() if "tilt_deg" in scan.phantom}
    straight = [o for o in of(matrix_of, "seg") if o.row.geometry not in tilted and not o.radiograph]
    assert wrong(straight, rule) == []


def test_37_a_radiograph_has_outlines_and_orientation(matrix_of: list[Authored]) -> None:
    flat = [o for o in of(matrix_of, "seg", *REPORTS) if o.radiograph]
    assert wrong(flat, rules.of_radiograph) == []


def test_38_pictures_are_marked_derived_captures(matrix_of: list[Authored]) -> None:
    assert wrong(of(matrix_of, "sc", "overlay", "card"), rules.marks) == []


def test_38_an_overlay_lies_where_its_source_lies(matrix_of: list[Authored]) -> None:

    assert wrong(of(matrix_of, "overlay"), rules.overlay_place) == []


@pytest.mark.long
def test_the_baseline_holds_no_message_that_nobody_hears() -> None:
    assert set(SEEN) == {"pairs", *GEOMETRIES}, "runs after everything else of this file: make conformance"
    heard = set().union(*SEEN.values())
    assert [a for a in judges.baseline() if a not in heard] == []


def _unqualified(ds: Dataset) -> None:
    for item in content(ds):
        item.pop("NumericValueQualifierCodeSequence", None)


def _without_sides(ds: Dataset) -> None:
    for segment in ds.SegmentSequence:
        segment.SegmentedPropertyTypeCodeSequence[0].pop("SegmentedPropertyTypeModifierCodeSequence", None)


def _without_first_reference(ds: Dataset) -> None:
    ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence.pop(0)


def _unknown_code(ds: Dataset) -> None:
    ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "39607007"


def _put(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds, keyword, value)


MUTATIONS: list[tuple[Rule, str, Callable[[Any], object]]] = [
    (rules.file_meta, "sr", lambda ds: setattr(ds.file_meta, "MediaStorageSOPInstanceUID", "2.25.1")),
    (rules.file_meta, "seg", _put("Modality", "OT")),
    (rules.transfer_syntax, "overlay", lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2")),
    (rules.identity, "pdf", _put("AccessionNumber", "4711")),
    (rules.lost_characters, "text", _put("StudyDescription", "Chest \ufffd")),
    (rules.lost_characters, "gsps", _put("StudyDescription", "Chest?")),
    (rules.character_set, "sr", _put("SpecificCharacterSet", "ISO_IR 100")),
    (rules.uids, "kos", _put("SOPInstanceUID", "1.02")),
    (rules.series, "card", _put("SeriesDescription", "chest_ct 0.1.0 [RESEARCH]")),
    (rules.series, "csr", _put("SeriesNumber", 900)),
    (rules.flags, "sr", _put("VerificationFlag", "VERIFIED")),
    (rules.flags, "card_text", _put("CompletionFlag", "")),
    (rules.root, "kos", lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113001")),
    (rules.group_tracking, "sr pure", lambda ds: groups(ds)[0].ContentSequence.pop(0)),
    (rules.group_tracking, "card_sr", lambda ds: groups(ds)[0].ContentSequence.pop(0)),
    (rules.references, "sr", _without_first_reference),
    (rules.foreign_codes, "seg", _unknown_code),
    (rules.declared_scheme, "csr", lambda ds: ds.pop("CodingSchemeIdentificationSequence")),
    (rules.numbers, "sr", _unqualified),
    (rules.places, "seg", _put("FrameOfReferenceUID", "2.25.1")),
    (rules.places, "seg fractional", lambda ds: ds.PerFrameFunctionalGroupsSequence.reverse()),
    (rules.voxels, "seg", lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData)))),
    (rules.voxels, "seg labelmap", lambda ds: ds.SegmentSequence.pop(0)),
    (rules.sides, "seg", _without_sides),
    (rules.of_radiograph, "seg", lambda ds: ds.PatientOrientation.reverse()),
    (rules.of_radiograph, "sr", lambda ds: groups(ds)[0].ContentSequence.pop()),
    (rules.marks, "sc", _put("BurnedInAnnotation", "NO")),
    (rules.overlay_place, "overlay", _put("InstanceNumber", 99)),
]


@pytest.mark.parametrize("part", ["pairs"], indirect=True)
def test_what_is_wrong_is_seen(matrix_of: list[Authored]) -> None:
    unseen = []
    for n, (rule, kind, mutate) in enumerate(MUTATIONS):
        of_kind = [o for o in matrix_of if o.row.kind == kind and o.row.outcome != "negative"]
        broken = replace(next(o for o in of_kind if o.radiograph == (rule is rules.of_radiograph)))
        broken.__dict__["objects"] = tuple(pydicom.dcmread(p) for p in broken.paths)
        assert list(rule(broken)) == []
        mutate(broken.ds)
        with suppress(AttributeError, IndexError):  # that is seen, too
            unseen += [(n, kind)] if list(rule(broken)) == [] else []
    assert unseen == []
