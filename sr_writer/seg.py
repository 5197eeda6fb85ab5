"""Segmentation objects: BINARY, uncompressed, on the grid of the source.

The frames are packed here, one segment and slice at a time: a four-dimensional array of every segment would take the
memory of several studies. Segment descriptions and shared groups come from highdicom.

References
----------
PS3.3 section A.51 (Segmentation IOD), C.8.20.2 (Segmentation Image), C.7.6.16 (Multi-frame Functional Groups).
"""

from collections.abc import Sequence
from itertools import combinations

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import SegmentationStorage

from pipeline.result import Code, Mask, Result, Segment
from sr_writer.codes import coded
from sr_writer.header import Authorship, finish, mark_lossy, new_object
from sr_writer.palette import segment_colours
from sr_writer.references import source_image
from sr_writer.sources import Sources

_SEGMENTATION = Code("113076", "DCM", "Segmentation")
_ARTIFICIAL_INTELLIGENCE = DicomCode("123110", "DCM", "Artificial Intelligence")


def build(result: Result, sources: Sources, by: Authorship) -> Dataset:
    """Return the segmentation of `result`, which has at least one segment.

    Parameters
    ----------
    result : Result
        Masks on the source grid.
    sources : Sources
        Among them every slice of the result's geometry.
    by : Authorship
        Whose, by whom, when.
    """
    uids = result.geometry.sop_instance_uids
    first = sources.header(uids[0])
    ds = new_object(by, kind="seg", sop_class_uid=SegmentationStorage, modality="SEG", variant="binary")
    frames = _frames(result.segments, len(uids), omit_empty=by.options.omit_empty_frames)
    _image(ds, result, first)
    if uid := result.geometry.frame_of_reference_uid:
        ds.FrameOfReferenceUID = uid
        ds.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    colours = segment_colours(result)
    ds.SegmentSequence = [_segment(s, colours[s.number], by) for s in result.segments]
    ds.SegmentsOverlap = "YES" if any(_overlap(a.mask, b.mask) for a, b in combinations(result.segments, 2)) else "NO"
    _dimensions(ds, by)
    _functional_groups(ds, result, sources, frames)
    ds.ReferencedSeriesSequence = [_referenced_series(result, sources)]
    ds.NumberOfFrames = len(frames)
    ds.PixelData = _packed(result.segments, frames)
    return finish(ds, by)


def _image(ds: Dataset, result: Result, first: Dataset) -> None:
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = result.geometry.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    mark_lossy(ds, first)
    ds.SegmentationType = "BINARY"
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI_SEGMENTATION", f"AI {result.pipeline}"[:64], ""
    if first.get("BodyPartExamined"):
        ds.BodyPartExamined = first.BodyPartExamined


def _segment(segment: Segment, colour: tuple[int, int, int], by: Authorship) -> Dataset:
    identity = by.identity
    item = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label["en"][:64],
        segmented_property_category=DicomCode(*segment.category.as_json()),
        segmented_property_type=DicomCode(*segment.kind.as_json()),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=identity.pipeline, version=identity.version, family=_ARTIFICIAL_INTELLIGENCE,
            parameters={"weights": identity.weights_digest},
        ),
        tracking_uid=identity.tracking_uid(segment.tracking_id),
        tracking_id=segment.tracking_id,
        display_color=hd.color.CIELabColor.from_rgb(*colour),
    )  # fmt: skip
    if segment.laterality is not None:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(segment.laterality)]
    return item


def _overlap(a: Mask, b: Mask) -> bool:
    """Whether two masks share a voxel."""
    low = np.maximum(a.offset, b.offset)
    high = np.minimum(np.add(a.offset, a.box.shape), np.add(b.offset, b.box.shape))
    if (low >= high).any():
        return False
    parts = [m.box[tuple(slice(i - o, j - o) for i, j, o in zip(low, high, m.offset, strict=True))] for m in (a, b)]
    return bool((parts[0] & parts[1]).any())


def _frames(segments: Sequence[Segment], slices: int, *, omit_empty: bool) -> list[tuple[Segment, int]]:
    """Return (segment, slice) of every frame, by segment, then by slice."""
    frames = []
    for segment in segments:
        filled = np.flatnonzero(segment.mask.box.any(axis=(1, 2))) + segment.mask.offset[0]
        frames += [(segment, int(z)) for z in (filled if omit_empty else range(slices))]
    return frames


def _packed(segments: Sequence[Segment], frames: Sequence[tuple[Segment, int]]) -> bytes:
    """Return Pixel Data: one bit a pixel, first pixel in the lowest bit, frames without padding between them (PS3.5 8.1.1)."""
    shape = segments[0].mask.shape[1:]
    out = bytearray()
    rest: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
    for segment, z in frames:
        bits = segment.mask.plane(z).reshape(-1)
        if rest.size:
            bits = np.concatenate((rest, bits))
        whole = bits.size - bits.size % 8
        out += np.packbits(bits[:whole], bitorder="little").tobytes()
        rest = bits[whole:]
    if rest.size:
        out += np.packbits(rest, bitorder="little").tobytes()
    expected = (len(frames) * shape[0] * shape[1] + 7) // 8
    if len(out) != expected:
        raise ValueError(f"segmentation: {len(out)} bytes of frames instead of {expected}")
    return bytes(out) + b"\0" * (len(out) % 2)


def _dimensions(ds: Dataset, by: Authorship) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = by.identity.uid("seg dimensions")
    ds.DimensionOrganizationSequence = [organization]
    rows = (
        (0x0062000B, 0x0062000A, "Segment Number"),
        (0x00200032, 0x00209113, "Image Position Patient"),
    )
    items = []
    for pointer, group, label in rows:
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer, item.DimensionDescriptionLabel = pointer, group, label
        items.append(item)
    ds.DimensionIndexSequence = items


def _functional_groups(ds: Dataset, result: Result, sources: Sources, frames: Sequence[tuple[Segment, int]]) -> None:
    """Fill the shared and per-frame groups; what belongs to a slice is built once and stands in each of its frames."""
    uids = result.geometry.sop_instance_uids
    first = sources.header(uids[0])
    shared = Dataset()
    spacing = [float(v) for v in first.PixelSpacing]
    step = result.geometry.voxel_volume_mm3 / (spacing[0] * spacing[1])  # along the normal: a tilted gantry leans
    shared.PixelMeasuresSequence = hd.PixelMeasuresSequence(
        pixel_spacing=spacing,
        slice_thickness=float(first.get("SliceThickness") or step),
        spacing_between_slices=step,
    )
    shared.PixelMeasuresSequence[0].PixelSpacing = first.PixelSpacing
    orientation = Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PlaneOrientationSequence = [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]

    places = [_slice_elements(uid, sources) for uid in uids]
    identifications = {
        s.number: _sequence("SegmentIdentificationSequence", _identification(s)) for s in result.segments
    }
    rank = {z: i for i, z in enumerate(sorted({z for _, z in frames}), start=1)}
    groups = []
    for segment, z in frames:
        content = Dataset()
        content.DimensionIndexValues = [segment.number, rank[z]]
        group = Dataset()
        group.FrameContentSequence = [content]
        for element in (*places[z], identifications[segment.number]):
            group.add(element)
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups


def _slice_elements(uid: str, sources: Sources) -> tuple[DataElement, DataElement]:
    position = Dataset()
    position.ImagePositionPatient = sources.position(uid)
    image = source_image(sources.instances[uid])
    image.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [coded(_SEGMENTATION)]
    return _sequence("PlanePositionSequence", position), _sequence("DerivationImageSequence", derivation)


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
    references = []
    for uid in result.geometry.sop_instance_uids:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sources.instances[uid].sop_class_uid, uid
        references.append(reference)
    item.ReferencedInstanceSequence = references
    return item
