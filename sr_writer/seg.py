"""Segmentation objects on the grid of the source: BINARY by default, FRACTIONAL and LABELMAP where a destination wants them.

Segment descriptions and shared groups come from highdicom; the frames are `sr_writer.seg_frames`.

References
----------
PS3.3 section A.51 (Segmentation IOD), C.8.20.2 (Segmentation Image), C.7.6.16 (Multi-frame Functional Groups).
"""

from collections.abc import Sequence

import highdicom as hd
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import SegmentationStorage

from dicom_io.model import ImageKey
from pipeline.result import Code, Geometry, Grid, Projection, Result, Segment
from sr_writer.codes import coded
from sr_writer.device import MODEL_NAME
from sr_writer.header import Authorship, finish, mark_lossy, new_object
from sr_writer.palette import segment_colours
from sr_writer.profiles import Encoding
from sr_writer.references import reference, source_image
from sr_writer.seg_frames import FULL, LABEL_MAP_STORAGE, Frame, frames, label_bytes, overlap, pixel_data
from sr_writer.sources import Sources

_SEGMENTATION = Code("113076", "DCM", "Segmentation")
_BACKGROUND = Code("125040", "DCM", "Background")
_ARTIFICIAL_INTELLIGENCE = DicomCode("123110", "DCM", "Artificial Intelligence")


def build(result: Result, sources: Sources, by: Authorship, encoding: Encoding = "binary") -> Dataset:
    """Return the segmentation of `result`, which has at least one segment.

    Parameters
    ----------
    result : Result
        Masks on the source grid.
    sources : Sources
        Among them every slice of the result's geometry.
    by : Authorship
        Whose, by whom, when.
    encoding : Encoding
        Segments that overlap are written as ``binary`` where ``labelmap`` is wanted: that has one label a voxel. So are those
        of a radiograph, whose organs lie behind each other.
    """
    first = sources.header(result.geometry.images[0])
    overlapping = overlap(result.segments)
    if encoding == "labelmap" and (overlapping or isinstance(result.geometry, Projection)):
        encoding = "binary"
    sop_class = LABEL_MAP_STORAGE if encoding == "labelmap" else SegmentationStorage
    ds = new_object(by, kind="seg", sop_class_uid=sop_class, modality="SEG", variant=encoding)
    shown = frames(result.segments, len(result.geometry.images), encoding, omit_empty=by.form("seg").omit_empty_frames)
    _image(ds, result, first, encoding)
    if uid := result.geometry.frame_of_reference_uid:
        ds.FrameOfReferenceUID = uid
        ds.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    colours = segment_colours(result)
    ds.SegmentSequence = [_segment(s, colours[s.number], by) for s in result.segments]
    if encoding == "labelmap":
        ds.SegmentSequence.insert(0, _background())
    ds.SegmentsOverlap = "YES" if overlapping else "NO"
    _dimensions(ds, result, by, encoding)
    _functional_groups(ds, result, sources, shown)
    ds.ReferencedSeriesSequence = [_referenced_series(result, sources)]
    ds.NumberOfFrames = len(shown)
    ds.PixelData = pixel_data(shown, encoding)
    return finish(ds, by)


def _image(ds: Dataset, result: Result, first: Dataset, encoding: Encoding) -> None:
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = result.geometry.shape[1:]
    bits = {"binary": 1, "fractional": 8, "labelmap": 8 * label_bytes(result.segments)}[encoding]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    mark_lossy(ds, first)
    ds.SegmentationType = encoding.upper()
    if encoding == "fractional":
        ds.SegmentationFractionalType, ds.MaximumFractionalValue = "OCCUPANCY", FULL
    elif encoding == "labelmap":
        ds.PixelPaddingValue = 0
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI_SEGMENTATION", f"AI {result.pipeline}"[:64], ""
    if first.get("BodyPartExamined"):
        ds.BodyPartExamined = first.BodyPartExamined
    if isinstance(result.geometry, Projection):  # nothing else says where its pixels lie (PS3.3 section C.7.6.1.1.1)
        ds.PatientOrientation = list(result.geometry.orientation) or ""


def _background() -> Dataset:
    """Return the description of what no segment of a label map covers: its label is 0 (PS3.3 section C.8.20.4)."""
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel, item.SegmentAlgorithmType = 0, "Background", "AUTOMATIC"
    item.SegmentAlgorithmName = MODEL_NAME
    item.SegmentedPropertyCategoryCodeSequence = [coded(_BACKGROUND)]
    item.SegmentedPropertyTypeCodeSequence = [coded(_BACKGROUND)]
    item.RecommendedDisplayCIELabValue = [0, 32896, 32896]
    return item


def _segment(segment: Segment, colour: tuple[int, int, int], by: Authorship) -> Dataset:
    identity = by.identity
    item = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=by.text(segment.label[by.languages[0]])[:64],
        segmented_property_category=DicomCode(*segment.category.as_json()),
        segmented_property_type=DicomCode(*segment.kind.as_json()),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=identity.pipeline, version=identity.version, family=_ARTIFICIAL_INTELLIGENCE,
            parameters={"weights": identity.weights_digest},
        ),
        tracking_uid=by.tracking_uid(segment.tracking_id),
        tracking_id=segment.tracking_id,
        display_color=hd.color.CIELabColor.from_rgb(*colour),
    )  # fmt: skip
    if segment.laterality is not None:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(segment.laterality)]
    return item


def _dimensions(ds: Dataset, result: Result, by: Authorship, encoding: Encoding) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = by.identity.uid("seg dimensions")
    ds.DimensionOrganizationSequence = [organization]
    rows = [] if encoding == "labelmap" else [(0x0062000B, 0x0062000A, "Segment Number")]
    if isinstance(result.geometry, Geometry):
        rows.append((0x00200032, 0x00209113, "Image Position Patient"))
    items = []
    for pointer, group, label in rows:
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer, item.DimensionDescriptionLabel = pointer, group, label
        items.append(item)
    ds.DimensionIndexSequence = items


def _functional_groups(ds: Dataset, result: Result, sources: Sources, shown: Sequence[Frame]) -> None:
    """Fill the shared and per-frame groups; what belongs to a slice is built once and stands in each of its frames."""
    images = result.geometry.images
    placed = isinstance(result.geometry, Geometry)
    ds.SharedFunctionalGroupsSequence = [_shared(result.geometry, sources.header(images[0]))]
    places = [_slice_elements(key, sources, placed=placed) for key in images]
    identifications = {
        s.number: _sequence("SegmentIdentificationSequence", _identification(s)) for s in result.segments
    }
    rank = {z: i for i, z in enumerate(sorted({f.z for f in shown}), start=1)}
    groups = []
    for z, segments in shown:
        numbers = [] if ds.SegmentationType == "LABELMAP" else [s.number for s in segments]
        content = Dataset()
        content.DimensionIndexValues = [*numbers, rank[z]] if placed else numbers
        group = Dataset()
        group.FrameContentSequence = [content]
        for element in (*places[z], *(identifications[number] for number in numbers)):
            group.add(element)
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups


def _shared(geometry: Grid, first: Dataset) -> Dataset:
    """Return what all slices have in common; the pixels of a radiograph have no size that holds in the patient."""
    shared = Dataset()
    if isinstance(geometry, Projection):
        return shared
    spacing = [float(v) for v in first.PixelSpacing]
    step = geometry.voxel_volume_mm3 / (spacing[0] * spacing[1])  # along the normal: a tilted gantry leans
    shared.PixelMeasuresSequence = hd.PixelMeasuresSequence(
        pixel_spacing=spacing,
        slice_thickness=float(first.get("SliceThickness") or step),
        spacing_between_slices=step,
    )
    shared.PixelMeasuresSequence[0].PixelSpacing = first.PixelSpacing
    orientation = Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PlaneOrientationSequence = [orientation]
    return shared


def _slice_elements(key: ImageKey, sources: Sources, *, placed: bool) -> list[DataElement]:
    image = source_image(sources.images[key])
    image.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [coded(_SEGMENTATION)]
    derived = _sequence("DerivationImageSequence", derivation)
    if not placed:
        return [derived]
    position = Dataset()
    position.ImagePositionPatient = sources.position(key)
    return [_sequence("PlanePositionSequence", position), derived]


def _identification(segment: Segment) -> Dataset:
    item = Dataset()
    item.ReferencedSegmentNumber = segment.number
    return item


def _sequence(keyword: str, item: Dataset) -> DataElement:
    holder = Dataset()
    setattr(holder, keyword, DicomSequence([item]))
    return holder[keyword]


def _referenced_series(result: Result, sources: Sources) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = result.series_instance_uid
    uids = dict.fromkeys(key.sop_instance_uid for key in result.geometry.images)
    item.ReferencedInstanceSequence = [reference(sources.instances[uid].sop_class_uid, uid) for uid in uids]
    return item
