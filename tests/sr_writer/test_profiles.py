"""The tables of destination profiles, and what they mean for the objects that are written."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom import dcmread

from sr_writer import profiles, write
from sr_writer.analysis import Analysis
from sr_writer.profiles import Form, Item, ObjectName, Piece, Profile, profile, wanted
from tests.sr_writer.graded import graded

pytestmark = pytest.mark.unit


def test_the_table_and_the_code_name_the_same() -> None:
    assert set(profiles.table()["object"]) == set(get_args(ObjectName))
    assert set(profiles.shipped()) | {"custom"} == set(get_args(profiles.ProfileName))
    for name, facts in profiles.table()["object"].items():
        assert {"en", "zh-CN"} == set(facts["name"]) == set(facts["look"]), name
    for name, one in profiles.shipped().items():
        assert {"en", "zh-CN"} == set(one.about), name


@pytest.mark.parametrize("name", list(profiles.shipped()))
def test_every_profile_says_something_with_and_without_a_result(name: str) -> None:
    results, cards = (profile(name).lines(result=yes) for yes in (True, False))
    assert results
    assert cards
    assert any(line.needed for line in results)
    assert all(line.needed for line in cards), "silence is a defect"
    assert all(line.piece.form.object in profiles.CARDS for line in cards)


def test_one_object_has_one_name_and_another_encoding_another() -> None:
    pieces = wanted(profiles.shipped().values(), result=True)
    assert len({p.stem for p in pieces}) == len({p.key for p in pieces}) == len(pieces)
    assert {p.stem for p in wanted([profile("ohif")], result=True)} >= {"seg", "sc"}, "plain forms have plain names"
    forms = [Form("seg"), Form("seg", encoding="labelmap"), Form("seg", series_number=7), Form("seg", description="x")]
    assert len({profiles.Piece(f).variant for f in forms}) == 4


def test_a_profile_more_changes_nothing_of_what_others_have() -> None:
    alone = wanted([profile("ohif")], result=True)
    assert wanted([profile("ohif"), profile("air"), profile("legacy")], result=True)[: len(alone)] == alone
    assert set(alone) <= set(wanted([profile("weasis"), profile("ohif")], result=True))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"object": "movie"}, "object"),
        ({"object": "sc", "encoding": "labelmap"}, "encoding"),
        ({"object": "seg", "encoding": "gray"}, "encoding"),
        ({"object": "seg", "compression": "rle"}, "compression"),
        ({"object": "seg", "tree": "pure"}, "tree"),
        ({"object": "sr", "modality": "source"}, "modality"),
        ({"object": "sc", "series_number": 0}, "series_number"),
        ({"object": "sc", "description": "报告"}, "description"),
        ({"object": "sc", "description": "x" * 41}, "description"),
        ({"object": "rejection"}, "rejection"),
        ({"object": "sr", "instead": Form("card")}, "instead"),
    ],
)
def test_what_does_not_fit_is_refused(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Item(**row)


def test_a_table_of_a_site_is_judged_as_a_whole() -> None:
    with pytest.raises(ValueError, match=r"^objects: "):
        profiles.of_site("custom")
    with pytest.raises(ValueError, match=r"^objects: "):
        profiles.of_site("ohif", (Item("sc"),))
    with pytest.raises(ValueError, match="brings a result"):
        profiles.of_site("custom", (Item("card"),))
    with pytest.raises(ValueError, match="series_number 903"):
        profiles.of_site("custom", (Item("sc"), Item("seg", series_number=903)))
    with pytest.raises(ValueError, match=r"^seg: .*no segmentation"):
        profiles.of_site("legacy", seg={"omit_empty_frames": False})
    with pytest.raises(ValueError, match=r"^seg: compression"):
        profiles.of_site("ohif", seg={"compression": "rle"})
    made = profiles.of_site("custom", (Item("sc"),))
    assert [i.object for i in made.items] == ["sc", "card"], "also a site that forgets it says why there is no result"
    changed = profiles.of_site("ohif", seg={"omit_empty_frames": False})
    assert [line.piece.form.title for line in changed.lines(result=True)] == [
        "seg (every frame)", "sr", "sc", "quality_kos",
    ]  # fmt: skip


def test_what_is_written_has_the_class_and_modality_of_the_table(positive: Any, tmp_path: Path, helpers: Any) -> None:
    objects = profiles.table()["object"]
    items = [Item(name) for name in objects if name not in {*profiles.CARDS, "rejection"}]
    apart = [Item(i.object, series_number=n) for n, i in enumerate(items, start=1)]
    made = helpers.write(positive, tmp_path / "result", pieces=wanted([Profile("all", tuple(apart))], result=True))
    made += helpers.write(graded(positive), tmp_path / "grade", pieces=(Piece(Form("quality_kos")),))
    assert {a.kind for a in made} == {i.object for i in items}
    for artifact in made:
        facts = objects[artifact.kind]
        assert (artifact.sop_class_uid, artifact.modality) == (facts["sop_class"], facts["modality"]), artifact.kind


def _written(c: Any, out: Path, helpers: Any, *named: str) -> dict[tuple[str, str], write.Artifact]:
    pieces = wanted([profile(name) for name in named], result=True)
    return {(a.kind, a.variant): a for a in helpers.write(c, out, pieces=pieces)}


def test_a_destination_that_comes_later_leaves_bytes_and_uids_as_they_are(
    positive: Any, tmp_path: Path, helpers: Any
) -> None:
    before = _written(positive, tmp_path, helpers, "ohif")
    after = _written(positive, tmp_path, helpers, "ohif", "slicer", "weasis")
    assert len(after) > len(before)
    for key, artifact in before.items():
        assert (after[key].sop_instance_uid, after[key].digest) == (artifact.sop_instance_uid, artifact.digest)
    assert len({a.sop_instance_uid for a in after.values()}) == len(after)
    assert len({a.path for a in after.values()}) == len(after)


def test_a_report_refers_to_the_objects_of_its_own_profile(positive: Any, tmp_path: Path, helpers: Any) -> None:
    made = _written(positive, tmp_path, helpers, "ohif", "slicer")
    for name in ("ohif", "slicer"):
        keys = {line.piece.form.object: line.piece.key for line in profile(name).lines(result=True)}
        report = dcmread(made[keys["sr"]].path)
        evidence = {
            item.ReferencedSOPInstanceUID
            for study in report.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        }
        own = {a.sop_instance_uid for key, a in made.items() if key in keys.values() and key[0] != "sr"}
        ours = {a.sop_instance_uid for a in made.values()}
        assert evidence & ours == own, name


def test_series_numbers_and_words_are_the_profiles(positive: Any, tmp_path: Path, helpers: Any) -> None:
    items = (Item("sc", series_number=4711, description="overview"), Item("seg", omit_empty_frames=False))
    pieces = wanted([Profile("custom", items)], result=True)
    picture, segmentation = (dcmread(a.path) for a in helpers.write(positive, tmp_path, pieces=pieces))
    assert (picture.SeriesNumber, picture.SeriesDescription) == (4711, "AI chest_ct 0.1.0 overview [RESEARCH]")
    slices = len(positive.result.geometry.images)
    assert segmentation.NumberOfFrames == slices * len(positive.result.segments)


@pytest.mark.parametrize(
    ("options", "syntax"),
    [
        ({"compression": "deflated"}, "1.2.840.10008.1.2.1.99"),
        ({"encoding": "fractional", "compression": "rle"}, "1.2.840.10008.1.2.5"),
    ],
)
def test_a_compressed_segmentation_holds_the_same_mask(
    positive: Any, tmp_path: Path, helpers: Any, options: dict[str, Any], syntax: str
) -> None:
    pieces = wanted([Profile("custom", (Item("seg"), Item("seg", series_number=7, **options)))], result=True)
    plain, packed = (dcmread(a.path) for a in helpers.write(positive, tmp_path, pieces=pieces))
    assert packed.file_meta.TransferSyntaxUID == syntax
    assert ((packed.pixel_array != 0) == (plain.pixel_array != 0)).all()
    assert packed.SOPInstanceUID != plain.SOPInstanceUID


def test_every_object_has_a_writer(positive: Any) -> None:
    analysis = Analysis(positive.result, positive.volume, None, None, lambda _piece: ())  # type: ignore[arg-type]
    named = {f.object for p in profiles.shipped().values() for i in p.items for f in (i, i.instead) if f is not None}
    assert named - profiles.CARDS <= set(analysis._writers)
