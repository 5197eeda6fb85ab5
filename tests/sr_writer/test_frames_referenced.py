"""Results of enhanced CT: the same as those of the same slices alone, each reference with its frame, and wrong frames caught."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import phantom
from dicom_io.read import read_instance
from sr_writer import gate, sc
from sr_writer.sources import Sources
from sr_writer.tracking import follow

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gate.md"
SLICES = 16
Change = Callable[[Dataset, "Both"], object]


class Both:
    """One phantom as single images and as one enhanced object, with everything written of each."""

    def __init__(self, helpers: Any, folder: Path) -> None:
        made = phantom.build(
            11, slices=SLICES, matrix=(60, 68), patient_name="王^小东", charset="GB18030", shuffle=True
        )
        self.case = helpers.from_folder(phantom.write_enhanced(made, folder / "enhanced"))
        self.single = helpers.from_folder(phantom.write(made, folder / "single"))
        self.artifacts = helpers.everything(self.case, folder / "out")
        self.seg_of_single = pydicom.dcmread(helpers.write(self.single, folder / "out-single")[0].path)
        self.claim = helpers.claim(self.case)
        self.first = {a.kind: a for a in reversed(self.artifacts)}
        self.frames = [image.frame for image in self.case.result.geometry.images]

    def read(self, kind: str) -> Dataset:
        return pydicom.dcmread(self.first[kind].path)

    def beside(self, frame: int) -> int:
        """Return the frame of a neighbour of a slice."""
        z = self.frames.index(frame)
        return self.frames[z + 1 if z + 1 < SLICES else z - 1]

    def judged(self, kinds: Iterable[str], change: Change, folder: Path) -> dict[str, set[str]]:
        """Return for which codes each kind is refused after its change; reports are held against a segmentation as it was."""
        spoilt = {}
        for kind in kinds:
            artifact = self.first[kind]
            path = Path(shutil.copy(artifact.path, folder / artifact.name))
            ds = pydicom.dcmread(path)
            change(ds, self)
            ds.save_as(path)
            spoilt[kind] = replace(artifact, path=path)
        beside = [self.first[kind] for kind in ("seg", "sc") if kind not in spoilt and "seg" not in spoilt]
        found = gate.check([*spoilt.values(), *beside], self.case.series.instances, (), self.claim)
        return {k: {r.reason.code for r in found if r.artifact is a} for k, a in spoilt.items()}


@pytest.fixture(scope="module")
def both(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(helpers, tmp_path_factory.mktemp("frames"))


def items(ds: Dataset) -> Iterator[Dataset]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from items(item)


def named(ds: Dataset) -> list[Dataset]:
    return [item for item in items(ds) if "ReferencedFrameNumber" in item]


@pytest.mark.unit
def test_enhanced_ct_gives_the_numbers_and_masks_of_its_slices(both: Both) -> None:
    one, other = both.case.result, both.single.result
    np.testing.assert_array_equal(both.case.volume.array, both.single.volume.array)
    np.testing.assert_array_equal(one.geometry.affine, other.geometry.affine)
    assert both.frames != sorted(both.frames), "the frames stand in the order of the slices: nothing is shown"
    assert [m.as_json() for m in one.measurements] == [m.as_json() for m in other.measurements]
    ds, single = both.read("seg"), both.seg_of_single
    assert ds.PixelData == single.PixelData
    for group, alone in zip(ds.PerFrameFunctionalGroupsSequence, single.PerFrameFunctionalGroupsSequence, strict=True):
        assert group.PlanePositionSequence == alone.PlanePositionSequence
    assert ds.SharedFunctionalGroupsSequence == single.SharedFunctionalGroupsSequence


@pytest.mark.unit
def test_every_object_leaves(both: Both) -> None:
    found = gate.check(both.artifacts, both.case.series.instances, (), both.claim)
    assert [(r.artifact.name, r.reason.code, dict(r.reason.text)) for r in found] == []


@pytest.mark.unit
def test_frames_are_named_where_an_image_is_meant(both: Both) -> None:
    ds = both.read("seg")
    place = dict(zip(both.frames, range(SLICES), strict=True))
    source = pydicom.dcmread(both.case.series.instances[0].path, stop_before_pixels=True)
    for group in ds.PerFrameFunctionalGroupsSequence:
        frame = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        there = source.PerFrameFunctionalGroupsSequence[frame - 1].PlanePositionSequence[0].ImagePositionPatient
        assert group.PlanePositionSequence[0].ImagePositionPatient == there
    (series,) = ds.ReferencedSeriesSequence
    assert [i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence] == [source.SOPInstanceUID]
    for kind in ("sr", "csr", "text", "kos", "sc", "gsps"):
        assert {f for i in named(both.read(kind)) for f in np.atleast_1d(i.ReferencedFrameNumber)} <= set(place), kind
        assert named(both.read(kind)), kind
    for kind in ("sr", "csr", "text", "kos"):
        (study,) = both.read(kind).CurrentRequestedProcedureEvidenceSequence
        listed = [i.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence]
        assert listed.count(source.SOPInstanceUID) == 1, kind
    (listed,) = both.read("gsps").ReferencedSeriesSequence[0].ReferencedImageSequence
    drawn = {
        i.ReferencedFrameNumber for a in both.read("gsps").GraphicAnnotationSequence for i in a.ReferencedImageSequence
    }
    assert set(np.atleast_1d(listed.ReferencedFrameNumber)) == drawn
    pictures = [pydicom.dcmread(a.path, stop_before_pixels=True) for a in both.artifacts if a.kind == "overlay"]
    assert [p.InstanceNumber for p in pictures] == both.frames
    assert [p.SourceImageSequence[0].ReferencedFrameNumber for p in pictures] == both.frames


@pytest.mark.unit
def test_what_was_found_in_frames_is_found_again(both: Both) -> None:
    result, known = follow(both.case.result, [both.first["sr"].path, both.first["seg"].path])
    assert {f.tracking_id for f in result.findings} <= set(known)
    # on the frames of another order nothing lies where it was
    moved = pydicom.dcmread(both.first["seg"].path)
    for item in named(moved):
        item.ReferencedFrameNumber = SLICES + 1 - item.ReferencedFrameNumber
    path = both.first["seg"].path.parent / "moved.seg"
    moved.save_as(path)
    result, known = follow(both.case.result, [both.first["sr"].path, path])
    assert not {f.tracking_id for f in result.findings} <= set(known)


@pytest.mark.unit
def test_pictures_of_unusable_frames_name_the_instance(both: Both, helpers: Any, tmp_path: Path) -> None:
    """What is not analysed because its groups are wrong gets its card all the same."""
    ds = pydicom.dcmread(both.case.series.instances[0].path)
    ds.PerFrameFunctionalGroupsSequence.pop()
    ds.save_as(tmp_path / "short.dcm")
    instance = read_instance(tmp_path / "short.dcm")
    sources, by = Sources([instance]), helpers.authorship(both.case)
    picture = np.zeros((64, 64, 3), np.uint8)
    card = sc.build(picture, [*sources.instances.values()], by, kind="card", description="AI not analysed")
    assert "ReferencedFrameNumber" not in card.SourceImageSequence[0]
    assert gate.check([helpers.stored(card, tmp_path, "card")], [instance]) == ()


# ---- attacked


def next_frame(ds: Dataset, both: Both) -> None:
    for item in named(ds):
        frames = [both.beside(int(f)) for f in np.atleast_1d(item.ReferencedFrameNumber)]
        item.ReferencedFrameNumber = frames if len(frames) > 1 else frames[0]


def stored_order(ds: Dataset, both: Both) -> None:
    """Name frames as a writer would that takes the order in the object for that of the slices."""
    for item in named(ds):
        frames = [both.frames.index(int(f)) + 1 for f in np.atleast_1d(item.ReferencedFrameNumber)]
        item.ReferencedFrameNumber = frames if len(frames) > 1 else frames[0]


def no_frame(ds: Dataset, _: Both) -> None:
    for item in named(ds):
        del item.ReferencedFrameNumber


def no_such_frame(ds: Dataset, _: Both) -> None:
    named(ds)[0].ReferencedFrameNumber = SLICES + 1


IMAGES = ("seg", "sr", "csr", "text", "kos", "sc", "overlay", "gsps")
PLACED = {
    "seg": "position-differs", "sr": "outline-differs", "csr": "outline-differs", "overlay": "position-differs",
    "gsps": "outline-differs",
}  # fmt: skip
ATTACKS: dict[str, tuple[Change, dict[str, str]]] = {
    "the next frame": (next_frame, PLACED),
    "frames by their order in the object": (stored_order, PLACED),
    "no frame number": (no_frame, dict.fromkeys(IMAGES, "reference-dangling")),
    "a frame that is not there": (no_such_frame, dict.fromkeys(IMAGES, "reference-dangling")),
}


@pytest.mark.unit
@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_wrong_frame_is_caught(both: Both, tmp_path: Path, name: str) -> None:
    change, kinds = ATTACKS[name]
    found = both.judged(["seg"], change, tmp_path) | both.judged([k for k in kinds if k != "seg"], change, tmp_path)
    assert {kind: found[kind] for kind, code in kinds.items() if code not in found[kind]} == {}
    assert not any("object-unreadable" in codes for codes in found.values()), "a check broke instead of finding it"


@pytest.mark.unit
def test_the_table_of_wrong_frames_is_the_one_in_the_documentation() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    told: dict[str, dict[str, str]] = {}
    for name, kinds, code in rows:
        if name in ATTACKS:
            told.setdefault(name, {}).update(dict.fromkeys(re.findall(r"`(\w+)`", kinds), code.strip("`")))
    assert told == {name: kinds for name, (_, kinds) in ATTACKS.items()}


@pytest.mark.conformance
def test_01_02_dciodvfy_and_dcentvfy_find_no_error_in_results_of_frames(both: Both) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools are not installed")
    for kind, artifact in both.first.items():
        for tool in (["dciodvfy", "-new"], ["dcentvfy", str(both.case.series.instances[0].path)]):
            judged = subprocess.run(
                [*tool, str(artifact.path)], check=False, capture_output=True, text=True, errors="replace", timeout=60
            )
            errors = [line for line in (judged.stdout + judged.stderr).splitlines() if line.startswith("Error")]
            assert (judged.returncode, errors) == (0, []), (kind, tool[0])
