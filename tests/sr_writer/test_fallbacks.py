"""Objects for viewers that know neither segmentations nor reports: the same facts, in the right place, in words people read."""

import copy
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
import pydicom
import pypdfium2
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy.ndimage import binary_dilation, binary_erosion

from sr_writer import codes, comprehensive, fonts, gate_sources, gsps, key_objects, overlay, pdf, pdf_page, text_sr
from sr_writer.files import write_dicom
from sr_writer.header import Authorship
from sr_writer.narrative import conclusion, paragraphs
from sr_writer.palette import segment_colours
from sr_writer.sources import Sources
from sr_writer.tracked import finding_keys

pytestmark = pytest.mark.unit

Made = tuple[Any, dict[str, list[Dataset]]]


def _items(ds: Dataset) -> Iterator[Dataset]:
    for child in ds.get("ContentSequence") or ():
        yield child
        yield from _items(child)


def _references(ds: Dataset) -> Iterator[tuple[str, str]]:
    """Yield (SOP Class UID, SOP Instance UID) of everything that an object refers to."""
    if "ReferencedSOPInstanceUID" in ds:
        yield str(ds.ReferencedSOPClassUID), str(ds.ReferencedSOPInstanceUID)
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _references(item)


def _words(ds: Dataset) -> list[str]:
    return [str(i.TextValue) for i in _items(ds) if i.ValueType == "TEXT"]


def _texts(ds: Dataset) -> list[str]:
    return [str(e.value) for e in ds.iterall() if e.VR in {"UT", "ST", "LT", "LO", "SH"}]


def _document(ds: Dataset) -> pypdfium2.PdfDocument:
    return pypdfium2.PdfDocument(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])


def _read(ds: Dataset) -> str:
    """Return the text of a PDF, without line breaks and with the plain form of every character."""
    document = _document(ds)
    return "".join(page.get_textpage().get_text_bounded().replace("\r\n", " ") for page in document)


def _bytes(ds: Dataset, folder: Path) -> bytes:
    path = folder / "object.dcm"
    path.unlink(missing_ok=True)
    write_dicom(ds, path)
    return path.read_bytes()


def test_every_object_says_whose_it_is_and_refers_to_nothing_unknown(fallbacks: Made) -> None:
    case, made = fallbacks
    known = {i.sop_instance_uid: i.sop_class_uid for i in case.series.instances}
    known[case.identity.uid("seg", 0, "binary")] = "1.2.840.10008.5.1.4.1.1.66.4"
    header = case.series.header
    seen: set[str] = set()
    for kind, objects in made.items():
        for ds in objects:
            for keyword in gate_sources.IDENTITY:
                assert str(ds.get(keyword) or "") == str(header.get(keyword) or ""), (kind, keyword)
            assert all(known.get(uid) == sop_class for sop_class, uid in _references(ds)), kind
            assert ds.SeriesDescription.startswith("AI chest_ct 0.1.0 ")
            assert ds.ContributingEquipmentSequence[1].DeviceUID == case.identity.device_uid
            assert ds.SOPInstanceUID not in seen | set(known)
            seen.add(ds.SOPInstanceUID)
    series = [{str(ds.SeriesInstanceUID) for ds in objects} for objects in made.values() if objects]
    assert all(len(uids) == 1 for uids in series)
    assert len(set.union(*series, {case.series.series_instance_uid})) == len(series) + 1


def test_13_the_same_twice_is_the_same_bytes(negative: Any, helpers: Any, tmp_path: Path) -> None:
    later = helpers.build_fallbacks(negative, revision=2, now=datetime(2027, 1, 1, tzinfo=UTC))
    again = helpers.build_fallbacks(negative)
    for kind, objects in helpers.fallbacks_of(negative).items():
        for one, two, three in zip(objects[:2], again[kind][:2], later[kind][:2], strict=True):
            assert _bytes(one, tmp_path) == _bytes(two, tmp_path), kind
            assert one.SOPInstanceUID == three.SOPInstanceUID
            assert three.SeriesDescription == one.SeriesDescription + " r2"


# ---- overlay ----------------------------------------------------------------------------------------------------------


def test_overlay_draws_every_finding_around_its_mask(positive: Any, coronal: Any, helpers: Any) -> None:
    for case in (positive, coronal):
        by = helpers.authorship(case)
        colours = segment_colours(case.result)
        image = case.series.instances[0]
        for finding in case.result.findings:
            # alone, so that no other line covers it
            segment = replace(case.result.segments[finding.segment_number - 1], number=1)
            result = replace(case.result, segments=(segment,), findings=(replace(finding, segment_number=1),))
            colour = segment_colours(result)[1]
            mask = segment.mask
            z = mask.offset[0] + mask.box.shape[0] // 2
            if not mask.plane(z).any():
                continue
            drawn = (overlay.draw(z, result, case.volume, image, by) == colour).all(axis=2)
            plane = mask.plane(z) > 0
            assert drawn.any()
            edge = binary_dilation(plane, iterations=2) & ~binary_erosion(plane, iterations=2)
            assert (drawn & edge).sum() >= 0.95 * drawn.sum(), finding.tracking_id
        assert len(set(colours.values())) == len(colours)


def test_overlay_keeps_one_picture_in_memory(positive: Any, helpers: Any) -> None:
    sources, by = Sources(positive.series.instances), helpers.authorship(positive)
    objects = overlay.build(positive.result, positive.volume, sources, by)
    picture = len(next(objects).PixelData)
    tracemalloc.start()
    peaks = [tracemalloc.get_traced_memory()[1] for _ in objects]
    tracemalloc.stop()
    assert len(peaks) == 23
    assert peaks[-1] - peaks[3] < 5 * picture


def test_overlay_takes_the_window_of_what_is_no_ct(positive: Any) -> None:
    header = pydicom.Dataset()
    header.Modality, header.WindowCenter, header.WindowWidth = "MR", [500, 1], [200, 2]
    image = replace(positive.series.instances[0], header=header)
    values = replace(positive.volume, array=np.array([[[300, 400, 500, 600, 900]]], np.float32))
    assert overlay.grey(0, values, image).tolist() == [[0, 0, 127, 255, 255]]
    header.PhotometricInterpretation = "MONOCHROME1"
    assert overlay.grey(0, values, image).tolist() == [[255, 255, 128, 0, 0]]
    del header.WindowCenter
    assert overlay.grey(0, values, image)[0, [0, -1]].tolist() == [255, 0]


# ---- presentation state -----------------------------------------------------------------------------------------------


def test_presentation_state_outlines_are_the_masks(fallbacks: Made) -> None:
    case, made = fallbacks
    (ds,) = made["gsps"]
    slices = {uid: z for z, (uid, _) in enumerate(case.result.geometry.images)}
    shape = case.result.geometry.shape[1:]
    for annotation in ds.GraphicAnnotationSequence:
        assert annotation.GraphicLayer == "AI"
        z = slices[annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID]
        expected = np.zeros(shape, bool)
        for finding in case.result.findings:
            expected |= case.result.segments[finding.segment_number - 1].mask.plane(z) > 0
        drawn = Image.new("1", shape[::-1])
        for graphic in annotation.get("GraphicObjectSequence") or ():
            points = np.array(graphic.GraphicData).reshape(-1, 2)
            if graphic.GraphicType == "POLYLINE":
                assert (points[0] == points[-1]).all()
                ImageDraw.Draw(drawn).polygon([tuple(p) for p in points - 0.5], 1)
            else:
                assert (graphic.GraphicType, len(points)) == ("CIRCLE", 2)
        edge = binary_dilation(expected) & ~binary_erosion(expected)
        assert ((np.asarray(drawn) ^ expected) & ~edge).sum() <= 2
    named = [str(t.UnformattedTextValue) for a in ds.GraphicAnnotationSequence for t in a.TextObjectSequence]
    for finding in case.result.findings:
        assert sum(n.startswith(f"AI {finding.tracking_id} ") for n in named) == 1
    assert all(any(codes.text("markings_banner", tag) in n for n in named) for tag in ("en", "zh-CN"))


def test_presentation_state_leaves_the_window_alone(fallbacks: Made) -> None:
    case, made = fallbacks
    (ds,) = made["gsps"]
    header = case.series.header
    assert not {"SoftcopyVOILUTSequence", "ModalityLUTSequence"} & set(ds.dir())
    assert (ds.RescaleIntercept, ds.RescaleSlope) == (header.RescaleIntercept, header.RescaleSlope)
    area = ds.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [header.Columns, header.Rows]
    listed = {uid for _, uid in _references(ds.ReferencedSeriesSequence[0])}
    assert listed == {uid for a in ds.GraphicAnnotationSequence for _, uid in _references(a)}


def test_presentation_state_circles_what_is_small() -> None:
    small = np.array([[10.0, 10], [13, 10], [13, 12], [10, 12], [10, 10]])
    circle = gsps._circle(small)
    centre, rim = np.array(circle.GraphicData).reshape(2, 2)
    assert centre.tolist() == [11.5, 11.0]
    assert rim[0] - centre[0] > np.linalg.norm(small - centre, axis=1).max() + 2


def test_presentation_state_of_a_negative_result_says_so(negative: Any, helpers: Any) -> None:
    (ds,) = helpers.fallbacks_of(negative)["gsps"]
    (annotation,) = ds.GraphicAnnotationSequence
    assert "GraphicObjectSequence" not in annotation
    (said,) = annotation.TextObjectSequence
    assert all(conclusion(negative.result, tag) in said.UnformattedTextValue for tag in ("en", "zh-CN"))


# ---- documents --------------------------------------------------------------------------------------------------------


def test_key_objects_are_the_key_slices_of_the_findings(fallbacks: Made) -> None:
    case, made = fallbacks
    if not case.result.findings:
        assert made["kos"] == []
        return
    (ds,) = made["kos"]
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113000"
    images = [i for i in _items(ds) if i.ValueType == "IMAGE"]
    assert not any("ConceptNameCodeSequence" in i for i in images)
    shown = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in images]
    assert shown == [image.sop_instance_uid for image in finding_keys(case.result)]
    assert {uid for _, uid in _references(ds.CurrentRequestedProcedureEvidenceSequence[0])} == set(shown)


def test_text_report_says_the_narrative_line_by_line(fallbacks: Made) -> None:
    case, made = fallbacks
    (ds,) = made["text"]
    words = _words(ds)
    for tag in ("en", "zh-CN"):
        narrative = paragraphs(case.result, tag, research=True, plain=True)
        said = ["".join(word.split()) for word in words]
        lines = ["".join(line.split()) for p in narrative for line in p.lines]
        at = [next(n for n, w in enumerate(said) if w.endswith(line)) for line in lines]
        assert at == sorted(at)
        assert words[at[0]] == conclusion(case.result, tag)
    assert ds.ContinuityOfContent == "SEPARATE"
    assert all("ConceptNameCodeSequence" in i for i in _items(ds))
    assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    (card,) = made["text_card"]
    assert any("Part of the lung lies outside the images" in w for w in _words(card))
    assert any("部分肺组织位于图像之外" in w for w in _words(card))


def test_findings_of_a_text_report_have_lines_that_no_viewer_cuts(positive: Any, helpers: Any) -> None:
    """OHIF 3.13.2 shows findings in lines as they are, and cuts what is wider than its window."""
    many = tuple(replace(m, name="opacity_volume") for f in positive.result.findings for m in f.measurements)
    long = replace(positive.result.findings[0], measurements=positive.result.findings[0].measurements + many[:6])
    result = replace(positive.result, findings=(long, *positive.result.findings[1:]))
    ds = text_sr.build(result, Sources(positive.series.instances), helpers.authorship(positive))
    findings = [i for i in _items(ds) if i.ValueType == "TEXT" and i.ConceptNameCodeSequence[0].CodeValue == "121071"]
    lines = [line for i in findings for line in str(i.TextValue).split("\r\n")]
    assert len(lines) > len(findings) >= 4
    assert max(sum(2 if east_asian_width(c) in "WF" else 1 for c in line) for line in lines) <= text_sr.COLUMNS
    assert all(line.startswith("  ") for i in findings for line in str(i.TextValue).split("\r\n")[1:])


def test_09_meanings_of_a_text_report_are_in_the_language_of_their_section(coronal: Any, helpers: Any) -> None:
    by = helpers.authorship(coronal)
    by = replace(by, options=replace(by.options, languages=("zh-CN", "en")))
    ds = text_sr.build(coronal.result, Sources(coronal.series.instances), by)
    assert ds.ConceptNameCodeSequence[0].CodeMeaning == "影像诊断报告"
    first, second, images = (i for i in ds.ContentSequence if i.ValueType == "CONTAINER")
    for part, ascii_only in ((first, False), (second, True), (images, False)):
        meanings = {i.ConceptNameCodeSequence[0].CodeMeaning for i in (part, *part.ContentSequence)}
        assert len(meanings) >= 2
        assert {m.isascii() for m in meanings} == {ascii_only}
    # and those of the next document, in another language, in that
    english = text_sr.build(coronal.result, Sources(coronal.series.instances), helpers.authorship(coronal))
    context = [i for i in english.ContentSequence if i.ValueType == "CODE"]
    assert all(i.ConceptCodeSequence[0].CodeMeaning.isascii() for i in context)


def test_09_key_objects_are_described_in_the_language_of_the_document(coronal: Any, helpers: Any) -> None:
    by = helpers.authorship(coronal)
    by = replace(by, options=replace(by.options, languages=("zh-CN", "en")))
    ds = key_objects.build(coronal.result, Sources(coronal.series.instances), by)
    named = [ds, *(i for i in ds.ContentSequence if i.get("ConceptNameCodeSequence"))]
    assert not any(i.ConceptNameCodeSequence[0].CodeMeaning.isascii() for i in named)


def test_comprehensive_report_is_the_same_tree(fallbacks: Made) -> None:
    case, made = fallbacks
    ((ds,), (full,)) = made["csr"], made["sr"]
    assert ds.ContentSequence == full.ContentSequence
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert ds.SOPInstanceUID != full.SOPInstanceUID == case.identity.uid("sr")
    assert ds.CurrentRequestedProcedureEvidenceSequence == full.CurrentRequestedProcedureEvidenceSequence


def test_a_report_with_spatial_coordinates_cannot_be_comprehensive(negative: Any, helpers: Any) -> None:
    by = helpers.authorship(negative)
    full = copy.deepcopy(helpers.fallbacks_of(negative)["sr"][0])
    next(i for i in _items(full) if i.ValueType == "SCOORD").ValueType = "SCOORD3D"
    with pytest.raises(ValueError, match="SCOORD3D"):
        comprehensive.build(full, by)


@pytest.mark.parametrize(
    ("charset", "name", "written"),
    [
        ("GB18030", "王^小东", "GB18030"),
        ("GBK", "张^伟", "GBK"),
        ("ISO_IR 192", "Müller^Jürgen=王^小东", "ISO_IR 192"),
        ("ISO_IR 100", "Müller^Jürgen", "ISO_IR 192"),  # beside Chinese text
        (None, "Smith^John", "ISO_IR 192"),
    ],
)
def test_09_10_documents_in_the_character_sets_of_several_patients(
    negative: Any, helpers: Any, tmp_path: Path, charset: str | None, name: str, written: str
) -> None:
    by = helpers.authorship(negative)
    source = copy.deepcopy(by.source)
    source.SpecificCharacterSet, source.PatientName = charset, name
    sources = Sources(negative.series.instances)
    for build in (text_sr.build, gsps.build):
        path = tmp_path / "object.dcm"
        path.unlink(missing_ok=True)
        write_dicom(build(negative.result, sources, replace(by, source=source)), path)
        read = pydicom.dcmread(path)
        assert (read.SpecificCharacterSet, str(read.PatientName)) == (written, name)
        assert any(conclusion(negative.result, "zh-CN") in text for text in _texts(read))


def test_10_text_of_unknown_meaning_stays_ascii(negative: Any, helpers: Any) -> None:
    by = replace(helpers.authorship(negative), ascii_only=True)
    sources = Sources(negative.series.instances)
    for build in (text_sr.build, gsps.build):
        ds = build(negative.result, sources, by)
        texts = _texts(ds)
        assert len(texts) > 10
        assert all(t.isascii() for t in texts)
        assert all(_words(ds))
        assert "SpecificCharacterSet" not in ds


# ---- PDF --------------------------------------------------------------------------------------------------------------


def test_pdf_can_be_read_in_both_languages(fallbacks: Made) -> None:
    case, made = fallbacks
    (ds,) = made["pdf"]
    read = _read(ds)
    plain = read.replace(" ", "")
    for tag in ("en", "zh-CN"):
        for part in paragraphs(case.result, tag, research=True):
            if part.topic in {"impression", "missing", "quality", "limits", "origin"}:
                assert all(line.replace(" ", "") in plain for line in part.lines), part
        assert codes.text("banner", tag).replace(" ", "") in plain
    first = conclusion(case.result, "en")
    assert read.index(first) < read.index("Measurements")
    name = " ".join(str(case.series.header.PatientName).split("^"))
    assert name in read
    assert str(case.series.header.PatientID) in read
    assert f"{case.identity.pipeline} {case.identity.version}" in read


def test_pdf_pages_are_numbered_name_the_patient_and_embed_their_fonts(positive: Any, helpers: Any) -> None:
    (ds,) = helpers.fallbacks_of(positive)["pdf"]
    document = _document(ds)
    assert len(document) >= 2
    embedded = set()
    for n, page in enumerate(document, start=1):
        read = page.get_textpage().get_text_bounded()
        assert f"Page {n} of" in read
        assert str(positive.series.header.PatientID) in read
        for thing in page.get_objects(filter=(pypdfium2.raw.FPDF_PAGEOBJ_TEXT,), max_depth=3):
            embedded.add(pypdfium2.raw.FPDFFont_GetIsEmbedded(pypdfium2.raw.FPDFTextObj_GetFont(thing)))
    assert embedded == {1}
    assert len(ds.EncapsulatedDocument) < 3_000_000


def test_pdf_card_says_why_in_both_languages(fallbacks: Made) -> None:
    _, made = fallbacks
    (ds,) = made["pdf_card"]
    plain = _read(ds).replace(" ", "")
    assert "Partofthelungliesoutsidetheimages" in plain
    assert "部分肺组织位于图像之外" in plain
    assert "Slicesare5.0mmthick" in plain


@pytest.mark.parametrize(
    ("name", "ascii_only", "shown"),
    [
        ("Wang^XiaoDong=王^小东", False, "Patient Wang XiaoDong / 王 小东"),
        ("Müller^Jürgen", False, "Patient Müller Jürgen"),
        ("M\xfcller^J\xfcrgen", True, "Patient (name: see the archive"),  # bytes of unknown meaning
        ("محمد^علي", False, "Patient (name: see the archive"),  # would need shaping from right to left
        ("Ali^Mohamed=محمد^علي", False, "Patient Ali Mohamed"),
        ("", False, "Patient (name: see the archive"),
        ("O<b>^&amp;", False, "Patient O<b> &amp;"),
    ],
)
def test_pdf_shows_a_name_only_if_it_can_be_set_right(
    positive: Any, helpers: Any, name: str, ascii_only: bool, shown: str
) -> None:
    source = pydicom.Dataset()
    source.PatientName, source.PatientID, source.PatientBirthDate = name, "P-7", "19650102"
    by = Authorship(source, positive.identity, positive.options, helpers.now, 1, ascii_only)
    line = pdf_page.identity_line(by)
    assert line.startswith(shown)
    assert line.endswith("ID P-7 · born 1965-01-02")
    pages = pypdfium2.PdfDocument(pdf_page.document([], by, "title"))
    assert line in pages[0].get_textpage().get_text_bounded()


def test_pdf_without_a_chinese_font_stands_in_english_and_says_so(
    negative: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Callable[[], None]] = [fonts.cjk_path.cache_clear, fonts.latin_path.cache_clear]
    caches.append(pdf_page.installed.cache_clear)
    for clear in caches:
        clear()
    monkeypatch.setattr(fonts, "CJK_FONTS", ())
    monkeypatch.setattr(fonts, "LATIN_FONTS", ())
    try:
        options = replace(negative.options, languages=("zh-CN", "en"))
        case = replace(negative, options=options)
        ds = pdf.build(case.result, case.volume, Sources(case.series.instances), helpers.authorship(case))
        read = _read(ds)
        assert "not for primary diagnosis" in read
        assert "no Chinese font is installed" in read
        assert not any(ord(c) >= 0x2E80 for c in read)
    finally:
        monkeypatch.undo()
        for clear in caches:
            clear()
