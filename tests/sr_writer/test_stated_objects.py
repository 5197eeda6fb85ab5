"""What the conformance statement says of the objects is what stands in them: attributes, values, templates, codes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

import phantom
from dicom_io.model import group
from sr_writer import codes, groups, quality_groups, rejection
from sr_writer.analysis import Analysis, NoResult
from sr_writer.considered import Considered
from sr_writer.header import COPIED, EMPTY_IF_ABSENT, new_object
from sr_writer.profiles import CARDS, REPORTS, Form, ObjectName, Piece
from sr_writer.sources import Sources
from sr_writer.write import Predecessor
from tests.project.statement import section, table
from tests.sr_writer.graded import graded

pytestmark = pytest.mark.unit

SECTIONS = {
    "Segmentation": ("seg",), "Reports": ("sr", "csr", "card_sr", "card_csr"), "Text reports": ("text", "card_text"),
    "Pictures": ("sc", "card"), "Overlay series": ("overlay",), "Presentation states": ("gsps",),
    "Key objects": ("kos", "rejection", "quality_kos"), "Documents": ("pdf", "card_pdf"),
}  # fmt: skip
Written = Mapping[str, list[Dataset]]


def enrich(path: Path) -> None:
    """Give a source image everything that an object may copy."""
    ds = dcmread(path)
    for keyword in COPIED:
        if keyword not in ds:
            item = Dataset()
            item.UniversalEntityID, item.UniversalEntityIDType = "1.2.3", "ISO"
            value = {"TimezoneOffsetFromUTC": "+0800", "PatientAge": "060Y"}.get(keyword, "X")
            setattr(ds, keyword, [item] if keyword.endswith("Sequence") else value)
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "10"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.save_as(path)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Any:
    """A result about sources that have everything."""
    folder = tmp_path_factory.mktemp("stated")
    phantom.write(phantom.build(3, slices=12, matrix=(48, 48)), folder)
    for path in (folder / "dicom").rglob("*.dcm"):
        enrich(path)
    return helpers.from_folder(folder)


@pytest.fixture(scope="module")
def written(case: Any, helpers: Any) -> Written:
    """One of each object in each encoding; of the second revision."""
    by, sources = helpers.authorship(case, 2), Sources(case.series.instances)
    before = Dataset()
    before.StudyInstanceUID, before.SeriesInstanceUID = case.identity.study_instance_uid, "1.2"
    before.SOPClassUID, before.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "1.3"
    forms = [Form("seg", encoding=e) for e in ("binary", "fractional")]
    forms += [Form(kind) for kind in ("sc", "overlay", "gsps", "kos", "pdf", "text")]
    result = replace(case.result, segments=case.result.segments[:2], findings=())  # a label map has no overlap
    out: defaultdict[str, list[Dataset]] = defaultdict(list)
    out["seg"] += Analysis(result, case.volume, sources, by, lambda _: ()).objects(
        Piece(Form("seg", encoding="labelmap"))
    )
    analysis = Analysis(case.result, case.volume, sources, by, lambda _: [before])
    pieces = [Piece(form) for form in forms]
    pieces += [
        Piece(Form(kind, tree=tree), tuple(forms[:1])) for kind in sorted(REPORTS) for tree in ("outlines", "pure")
    ]
    for piece in pieces:
        out[piece.form.object] += analysis.objects(piece)
    quality = graded(case, "D")
    of_images = replace(by, identity=quality.identity)
    grading = Analysis(quality.result, case.volume, sources, of_images, lambda _: [before])
    for kind in ("sr", "gsps", "quality_kos"):
        out[kind] += grading.objects(Piece(Form(kind)))
    said = [Considered(case.series.series_instance_uid, helpers.reason("thick-slices", "Thick.", "厚。"))]
    study = group(case.series.instances)[0]
    cut = helpers.reason("lung-cut", "Cut.", "截断。")
    for kind in sorted(CARDS):
        out[kind].append(NoResult(cut, "failed", study, said, sources, by).object(Piece(Form(kind))))
    out["card_sr"].append(NoResult(cut, "not_analysed", study, said, sources, by).object(Piece(Form("card_sr"))))
    old = helpers.stored(out["sc"][0], case.folder, "sc")
    out["rejection"].append(
        rejection.build([Predecessor(old.sop_class_uid, old.sop_instance_uid, old.series_instance_uid, old.path)], by)
    )
    return out


def test_the_statement_has_a_section_for_every_object(written: Written) -> None:
    assert sorted(kind for kinds in SECTIONS.values() for kind in kinds) == sorted(written)
    for title, kinds in SECTIONS.items():
        assert f"Objects: {', '.join(f'`{kind}`' for kind in kinds)}." in section(title)


@pytest.mark.parametrize("title", SECTIONS)
def test_every_attribute_of_every_object(title: str, written: Written) -> None:
    common = {keyword for keyword, *_ in table("Every object")}
    rows = {keyword: rest for keyword, *rest in table(title)}
    objects = [ds for kind in SECTIONS[title] for ds in written[kind]]
    found = [{e.keyword for e in ds} - common for ds in objects]
    assert set(rows) == set().union(*found)
    assert {keyword for keyword, (_, there, *_) in rows.items() if there == "always"} <= set.intersection(*found)
    _agree(rows, objects)


def test_every_attribute_that_all_objects_have(written: Written, case: Any, helpers: Any) -> None:
    rows = {keyword: rest for keyword, *rest in table("Every object")}
    objects = [ds for kinds in written.values() for ds in kinds]
    lacking = {kind for kind in written if any(there.endswith(f"but for {kind}") for _, there, *_ in rows.values())}
    all_others = [ds for kind, kinds in written.items() if kind not in lacking for ds in kinds]
    assert set(rows) == set.intersection(*({e.keyword for e in ds} for ds in all_others))
    for kind in lacking:
        there = {keyword for keyword, (_, there, *_) in rows.items() if not there.endswith(f"but for {kind}")}
        assert all({e.keyword for e in ds} & set(rows) == there for ds in written[kind])
    assert {keyword for keyword, (_, _, whence, _) in rows.items() if whence == "source"} == set(COPIED)
    _agree(rows, objects)
    # of a source that has nothing, with options that ask for nothing
    by = helpers.authorship(case)
    bare = replace(by, source=Dataset(), options=replace(by.options, research=False))
    ds = new_object(bare, kind="sc", sop_class_uid="1.2", modality="OT")
    assert {k for k, (_, there, *_) in rows.items() if there.startswith("always")} == {e.keyword for e in ds}
    assert set(EMPTY_IF_ABSENT) <= {
        keyword for keyword, (*_, value) in rows.items() if "empty" in value or keyword == "PatientSex"
    }


def _agree(rows: Mapping[str, list[str]], objects: list[Dataset]) -> None:
    """Compare tags and fixed values."""
    for keyword, (tag, _, whence, value) in rows.items():
        number = int(tag.strip("()").replace(",", ""), 16)
        assert number == tag_for_keyword(keyword), keyword
        assert whence in ("source", "generated", "fixed"), keyword
        if whence == "fixed":
            assert {_shown(ds[keyword]) for ds in objects if keyword in ds} == {value}, keyword


def _shown(element: Any) -> str:
    if element.VR != "SQ":
        return "\\".join(element.value) if element.VM > 1 else str(element.value if element.value is not None else "")
    if not element.value:
        return "no item"
    item = element.value[0]
    if "CodeValue" in item:
        return f'({item.CodeValue}, {item.CodingSchemeDesignator}, "{item.CodeMeaning}")'
    return f"{item.MappingResource}, {item.TemplateIdentifier}"


def _items(ds: Dataset) -> Iterator[Dataset]:
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _items(item)


def test_every_template_that_is_named(written: Written) -> None:
    found = {
        i.ContentTemplateSequence[0].TemplateIdentifier
        for kinds in written.values() for ds in kinds for i in _items(ds) if i.get("ContentTemplateSequence")
    }  # fmt: skip
    assert {name.removeprefix("TID ") for name, named, *_ in table("Templates") if named == "yes"} == found


def test_every_code(written: Written) -> None:
    """A code of the table stands in an object or in the tables of codes; every code of an object stands in the table."""
    told = {(value, scheme): meaning for value, scheme, meaning in table("Standard codes")}
    found = {
        (str(i.CodeValue), str(i.CodingSchemeDesignator))
        for kinds in written.values() for ds in kinds for i in _items(ds) if "CodeValue" in i
    }  # fmt: skip
    rows = codes._TABLE
    named = {(value, scheme) for part in ("procedure", "assessment") for value, scheme, _ in rows[part].values()}
    named |= {(m["code"][0], m["code"][1]) for m in rows["measurement"].values() if not isinstance(m["code"], str)}
    named |= {(unit, "UCUM") for unit in rows["unit"]}
    named |= {(value, scheme) for value, scheme, _ in rows["standard_quality"].values()}
    either = (groups._PRESENT, groups._ABSENT, groups._UNDETERMINED, quality_groups._LOWER)
    named |= {(c.value, c.scheme_designator) for c in either}
    assert {code for code in found if code[1] != codes.DESIGNATOR} | named == set(told)


def test_28_29_the_private_codes(written: Written) -> None:
    ours = {name: codes.concept(name) for name in codes.CONCEPTS}
    stated = [(c.value, c.meaning, codes.concept_label(n, "zh-CN")) for n, c in ours.items()]
    assert sorted(table("Private codes")) == sorted(stated)
    assert len({c.value for c in ours.values()}) == len(ours)
    assert all(len(c.value) <= 16 for c in ours.values())
    scheme = codes.coding_scheme_item()
    assert f"{codes.DESIGNATOR} ({scheme.CodingSchemeUID}), version {codes.SCHEME_VERSION}" in section("Private codes")
    assert not any(e.tag.is_private for kinds in written.values() for ds in kinds for i in _items(ds) for e in i)


def test_the_kinds_are_all_there_are() -> None:
    assert {kind for kinds in SECTIONS.values() for kind in kinds} == set(get_args(ObjectName))
