"""What is asked of one object of the matrix: each yields what is wrong. The numbers are those of docs/what-is-checked.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from dicom_io.charset import raw_names
from sr_writer import codes
from sr_writer.profiles import SYNTAXES
from tests.sr_writer.authored import Authored
from tests.sr_writer.matrix import SENDERS
from tests.sr_writer.reading import content, groups, images, items, masks, name_of, named, sources_of, texts, tracked

UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
IDENTITY = (
    "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime",
)  # fmt: skip
APPROVED = {
    ("24627-2", "LN"), ("en-US", "RFC5646"), ("zh-CN", "RFC5646"), ("{pixels}", "UCUM"), ("{-1:1}", "UCUM"),
}  # fmt: skip
"""Not in the pydicom dictionary: LOINC procedure of CID 7000, language tags, UCUM annotations of the image library."""
OURS = {codes.concept(name).value for name in codes.CONCEPTS}
KNOWN = {
    (value, scheme) for scheme, names in concepts.items() for entry in names.values() for value in entry
} | APPROVED
TITLES = {"text": "18748-4", "card_text": "18748-4", "kos": "113000", "rejection": "113001", "quality_kos": "113010"}
TEMPLATES = {"kos": "2010", "rejection": "2010", "quality_kos": "2010"}
LIES = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber")


def file_meta(o: Authored) -> Iterator[object]:
    for artifact, ds in zip(o.artifacts, o.objects, strict=True):
        meta = ds.file_meta
        if not meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID == artifact.sop_instance_uid:
            yield meta.MediaStorageSOPInstanceUID
        if not meta.MediaStorageSOPClassUID == ds.SOPClassUID == artifact.sop_class_uid:
            yield meta.MediaStorageSOPClassUID
        if (artifact.series_instance_uid, artifact.modality) != (ds.SeriesInstanceUID, ds.Modality):
            yield artifact


def transfer_syntax(o: Authored) -> Iterator[object]:
    for ds in o.objects:
        if ds.file_meta.TransferSyntaxUID != SYNTAXES[o.row.form.compression]:
            yield ds.file_meta.TransferSyntaxUID


def identity(o: Authored) -> Iterator[object]:
    source = pydicom.dcmread(o.case.series.instances[0].path, stop_before_pixels=True)
    for ds in o.objects:
        yield from (k for k in IDENTITY if ds.get(k, "") != source.get(k, ""))


def name(o: Authored) -> Iterator[object]:
    sender = SENDERS[o.row.sender]
    for path, ds in zip(o.paths, o.objects, strict=True):
        found = raw_names(path, "PatientName")["PatientName"]
        if found.text != sender.name:
            yield found
        if ds.get("SpecificCharacterSet") == sender.charset and found.raw != sender.raw:
            yield found.raw  # the same bytes wherever the object's character set allows it


def lost_characters(o: Authored) -> Iterator[object]:
    for ds in o.objects:
        yield from (t for t in texts(ds) if re.search("[\x1b?\ufffd]", t[1]))


def character_set(o: Authored) -> Iterator[object]:
    for ds in o.objects:
        charset = ds.get("SpecificCharacterSet")
        chinese = any(ord(c) > 0xFF for _, text in texts(ds) for c in text)
        if chinese and charset not in {"GB18030", "GBK", "ISO_IR 192"}:
            yield charset
        if charset is None and not all(text.isascii() for _, text in texts(ds)):
            yield charset


def uids(o: Authored) -> Iterator[object]:
    series = o.case.series
    source = {series.series_instance_uid, *(i.sop_instance_uid for i in series.instances)}
    for ds in o.objects:
        yield from source & {ds.SOPInstanceUID, ds.SeriesInstanceUID}
        for item in (ds, *items(ds)):
            for element in item:
                if element.VR == "UI":
                    values = [element.value] if element.VM == 1 else element.value
                    yield from (v for v in values if not UID.fullmatch(v) or len(v) > 64)


def series(o: Authored) -> Iterator[object]:
    form = o.row.form
    if [ds.InstanceNumber for ds in o.objects] != list(range(1, len(o.objects) + 1)) and form.object != "overlay":
        yield "InstanceNumber"
    if len({ds.SeriesInstanceUID for ds in o.objects}) > 1 or (len(o.objects) > 1) != (
        form.object == "overlay" and len(_images(o)) > 1
    ):
        yield "SeriesInstanceUID"
    for ds in o.objects:
        said = ds.SeriesDescription
        if not said.startswith(f"AI {o.case.identity.pipeline} 0.1.0 ") or "[RESEARCH]" not in said or len(said) > 64:
            yield said
        if (ds.SeriesNumber, ds.ContentQualification) != (form.number, "RESEARCH"):
            yield ds.SeriesNumber


def flags(o: Authored) -> Iterator[object]:
    found = tuple(o.ds.get(k) for k in ("VerificationFlag", "PreliminaryFlag", "CompletionFlag"))
    if found != ("UNVERIFIED", "PRELIMINARY", "PARTIAL" if o.row.outcome == "failed" else "COMPLETE"):
        yield found


def root(o: Authored) -> Iterator[object]:
    kind = o.row.form.object
    if name_of(o.ds) != TITLES.get(kind, "126000"):
        yield name_of(o.ds)
    template = [t.TemplateIdentifier for t in o.ds.get("ContentTemplateSequence") or ()]
    if template != ([] if kind in {"text", "card_text"} else [TEMPLATES.get(kind, "1500")]):
        yield template
    if [i.ConceptCodeSequence[0].CodeValue for i in named(o.ds, "121049")] != ["en-US"]:
        yield "language"
    if [i.ConceptCodeSequence[0].CodeValue for i in named(o.ds, "121005")] != ["121007"]:
        yield "observer"


def group_tracking(o: Authored) -> Iterator[object]:
    found = groups(o.ds)
    if not found:
        yield "no group"
    for group in found:
        yield from (c for c in ("112039", "112040", "121071") if len(named(group, c)) != 1)
    for uid, some in tracked(o.ds).items():
        if len({i.TextValue for g in some for i in named(g, "112039")}) != 1:
            yield uid
        if len({g.ContentTemplateSequence[0].TemplateIdentifier for g in some}) != len(some):
            yield uid
    states = [i.ConceptCodeSequence[0].CodeValue for g in found for i in named(g, "112001")]
    if states != {"positive": ["52101004"], "negative": ["272519000"]}.get(o.row.outcome, []):
        yield states


def references(o: Authored) -> Iterator[object]:
    there = {(i.sop_class_uid, i.sop_instance_uid) for i in o.case.series.instances}
    if o.segmentation is not None:
        there.add((o.segmentation.sop_class_uid, o.segmentation.sop_instance_uid))
    if o.row.kind == "rejection":
        there = {_named_by(p) for p in o.paths[0].parent.glob("*.dcm") if p != o.paths[0]}
    evidence = _evidence(o.ds)
    yield from evidence - there
    yield from (
        r.ReferencedSOPInstanceUID
        for item in content(o.ds)
        for r in item.get("ReferencedSOPSequence") or ()
        if (r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) not in evidence
    )
    if not evidence:
        yield "no evidence"


def foreign_codes(o: Authored) -> Iterator[object]:
    for ds in o.objects[:1]:
        for item in items(ds):
            if "LongCodeValue" in item:
                yield item
            if "CodeValue" in item:
                key = (item.CodeValue, item.CodingSchemeDesignator)
                private = key[1] == codes.DESIGNATOR
                if len(key[0]) > 16 or (key[0] not in OURS if private else key not in KNOWN):
                    yield key


def declared_scheme(o: Authored) -> Iterator[object]:
    used = any(i.get("CodingSchemeDesignator") == codes.DESIGNATOR and "CodeValue" in i for i in items(o.ds))
    said = [
        (i.CodingSchemeDesignator, i.CodingSchemeVersion) for i in o.ds.get("CodingSchemeIdentificationSequence") or ()
    ]
    if said != ([(codes.DESIGNATOR, codes.SCHEME_VERSION)] if used else []):
        yield said


def numbers(o: Authored) -> Iterator[object]:
    for item in content(o.ds):
        if item.ValueType == "NUM":
            values = [float(v.NumericValue) for v in item.MeasuredValueSequence]
            if not np.isfinite(values).all():
                yield values
            if not values and not (item.NumericValueQualifierCodeSequence and named(item, "121106")):
                yield name_of(item)


def places(o: Authored) -> Iterator[object]:
    ds, geometry = o.ds, o.case.result.geometry
    if ds.get("FrameOfReferenceUID", "") != geometry.frame_of_reference_uid:
        yield "FrameOfReferenceUID"
    (series,) = ds.ReferencedSeriesSequence
    said = series.SeriesInstanceUID, {r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence}
    if said != (o.case.series.series_instance_uid, {uid for uid, _ in geometry.images}):
        yield "ReferencedSeriesSequence"
    there, shared = _images(o), ds.SharedFunctionalGroupsSequence[0]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        image = there[sources_of(frame)]
        if o.radiograph:
            continue
        if frame.PlanePositionSequence[0].ImagePositionPatient != image.ImagePositionPatient:
            yield sources_of(frame)
        if shared.PlaneOrientationSequence[0].ImageOrientationPatient != image.ImageOrientationPatient:
            yield "ImageOrientationPatient"
        if shared.PixelMeasuresSequence[0].PixelSpacing != image.PixelSpacing:
            yield "PixelSpacing"
    indices = [f.FrameContentSequence[0].DimensionIndexValues for f in ds.PerFrameFunctionalGroupsSequence]
    ranks = [tuple(np.atleast_1d(i)) for i in indices]
    if ranks != sorted(set(ranks)):
        yield "DimensionIndexValues"


def of_radiograph(o: Authored) -> Iterator[object]:
    source, ds = o.case.series.instances[0].header, o.ds
    if o.row.form.object == "seg":
        if ds.get("PatientOrientation") != source.PatientOrientation:
            yield ds.get("PatientOrientation")
        shared = ds.SharedFunctionalGroupsSequence[0]
        yield from (k for k in ("PlaneOrientationSequence", "PixelMeasuresSequence") if k in shared)
        yield from (f for f in ds.PerFrameFunctionalGroupsSequence if "PlanePositionSequence" in f)
    else:
        shown = {o.case.identity.tracking_uid(s.tracking_id) for s in o.case.result.segments}
        outlined = {uid for uid, some in tracked(ds).items() if any(named(g, "111030") for g in some)}
        yield from shown - outlined


def voxels(o: Authored) -> Iterator[object]:
    ds = o.ds
    background = [0] if ds.SegmentationType == "LABELMAP" else []
    if [s.SegmentNumber for s in ds.SegmentSequence] != [*background, *range(1, len(o.case.result.segments) + 1)]:
        yield "SegmentNumber"
    if str(ds.SegmentationType).lower() != o.row.form.encoding:
        yield ds.SegmentationType
    found = masks(ds, order(o))
    for segment in o.case.result.segments:
        expected = np.zeros(o.case.result.geometry.shape, bool)
        segment.mask.paint(expected)
        if not expected.any() or (found[segment.number] != expected).any():
            yield segment.tracking_id


def sides(o: Authored) -> Iterator[object]:
    sides = {s.number: s.laterality.value for s in o.case.result.segments if s.laterality}
    for s in o.ds.SegmentSequence:
        said = [
            m.CodeValue
            for m in s.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence") or ()
        ]
        if said != [sides[n] for n in [int(s.SegmentNumber)] if n in sides]:
            yield s.SegmentLabel


def marks(o: Authored) -> Iterator[object]:
    for ds in o.objects:
        marks = (list(ds.ImageType), ds.BurnedInAnnotation, ds.ConversionType, ds.PhotometricInterpretation)
        if marks != (["DERIVED", "SECONDARY"], "YES", "WSD", "RGB"):
            yield marks
        if {i.PurposeOfReferenceCodeSequence[0].CodeValue for i in ds.SourceImageSequence} != {"121322"}:
            yield "SourceImageSequence"
        if ds.pixel_array.shape != (ds.Rows, ds.Columns, 3):
            yield ds.pixel_array.shape


def overlay_place(o: Authored) -> Iterator[object]:
    there = _images(o)
    sources = [ds.SourceImageSequence[0] for ds in o.objects]
    shown = [(str(s.ReferencedSOPInstanceUID), int(s.get("ReferencedFrameNumber") or 0)) for s in sources]
    if sorted(shown) != sorted(there) or len({ds.InstanceNumber for ds in o.objects}) != len(there):
        yield shown
    for key, ds in zip(shown, o.objects, strict=True):
        yield from (
            k
            for k in LIES
            if k in there[key] and ds.get(k) != there[key].get(k) and not (k == "InstanceNumber" and key[1])
        )


def _images(o: Authored) -> dict[tuple[str, int], Dataset]:
    return {key: image for i in o.case.series.instances for key, image in images(i.path).items()}


def _evidence(ds: Dataset) -> set[tuple[str, str]]:
    return {
        (i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID)
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in ds.get(keyword) or ()
        for series in study.ReferencedSeriesSequence
        for i in series.ReferencedSOPSequence
    }


def _named_by(path: Path) -> tuple[str, str]:
    ds = pydicom.dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    return str(ds.SOPClassUID), str(ds.SOPInstanceUID)


def order(o: Authored) -> dict[tuple[str, int], int]:
    """Return the slice of each image."""
    return {tuple(key): z for z, key in enumerate(o.case.result.geometry.images)}  # type: ignore[misc]


def voxel(o: Authored, seg: Dataset) -> tuple[str, float]:
    """Return what the size of a mask is called, and that of one voxel in cm3, of one pixel of a radiograph in cm2."""
    if o.radiograph:
        return "AREA_AT_DETECTOR", float(np.prod(o.case.series.instances[0].header.ImagerPixelSpacing)) / 100
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return "118565006", float(np.prod(measures.PixelSpacing)) * float(measures.SpacingBetweenSlices) / 1000


def values(group: Dataset) -> dict[str, float]:
    """Return the numbers of a measurement group by what they are called."""
    numbers = [i for i in group.ContentSequence if i.ValueType == "NUM" and i.MeasuredValueSequence]
    return {name_of(i): float(i.MeasuredValueSequence[0].NumericValue) for i in numbers}
