"""Enhanced CT: one instance with many frames, as the images that it holds.

Every frame becomes an image of its own, whose header says at its top level what a single-frame CT says there: plane, size of
a pixel, rescale, window, kind of image and how it was made. These stand in functional groups, of the frame or shared by all.
What says where a frame lies is taken from the groups alone.

References
----------
DICOM PS3.3 A.38.1 (Enhanced CT Image IOD), A.70 (Legacy Converted Enhanced CT Image IOD), C.7.6.16 (Multi-frame Functional
Groups), C.7.6.16.2.2 (Frame Content), C.8.15.3 (CT functional groups).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicom_io import elements
from dicom_io.errors import GeometryError
from dicom_io.limits import LIMITS
from dicom_io.model import Instance
from dicom_io.reasons import REASONS

ENHANCED_CT: Final = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
"""Enhanced CT Image Storage, Legacy Converted Enhanced CT Image Storage."""

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"),
    "CTImageFrameTypeSequence": ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex"),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
}
"""What is lifted out of each functional group."""
_GEOMETRY: Final = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_CONVERTED: Final = (
    "KVP", "ConvolutionKernel", "ContrastBolusAgent", "BodyPartExamined", "PatientPosition", "ProtocolName",
    "WindowCenter", "WindowWidth",
)  # fmt: skip
"""What a converted image may keep of its single frames where no functional group has a place for it."""
_ALIKE: Final = (
    "ImageType", "StackID", "TemporalPositionIndex", "TemporalPositionTimeOffset", "VolumetricProperties", "RescaleType",
)  # fmt: skip


def images_of(instance: Instance) -> tuple[Instance, ...]:
    """Return the images that an instance holds: itself, or the frames of an enhanced CT.

    Raises
    ------
    GeometryError
        ``frames-too-many`` or ``frames-inconsistent``.
    """
    if not is_enhanced(instance):
        return (instance,)
    header = instance.header
    count, groups = elements.integer(header, "NumberOfFrames") or 0, elements.value(header, _PER_FRAME)
    if count > LIMITS.read.frames:
        raise GeometryError(REASONS("frames-too-many", frames=count, limit=LIMITS.read.frames))
    if count < 1 or not isinstance(groups, Sequence) or len(groups) != count:
        raise GeometryError(REASONS("frames-inconsistent"))
    common = _common(header)
    first = (elements.integer(header, "ConcatenationFrameOffsetNumber") or 0) + 1
    return tuple(
        replace(instance, header=_header(common, group, first + k), frame=k + 1, frames=count)
        for k, group in enumerate(groups)
    )


def check_alike(images: Iterable[Instance]) -> None:
    """Refuse frames of several stacks, points in time or kinds of image: which of them is meant is not guessed.

    Raises
    ------
    GeometryError
        ``frames-mixed``.
    """
    said: dict[str, str] = {}
    for image in images:
        if not image.frame:
            continue
        for keyword in _ALIKE:
            value = elements.text(image.header, keyword)
            if said.setdefault(keyword, value) != value or "MIXED" in value.upper().split("\\"):
                raise GeometryError(REASONS("frames-mixed", what=keyword))


def header_of(instance: Instance) -> Dataset:
    """Return the header of the first image of an instance, for what is the same in all; never raises.

    Of groups that cannot be used nothing is taken.
    """
    if not is_enhanced(instance):
        return instance.header
    groups = elements.value(instance.header, _PER_FRAME)
    first = groups[0] if isinstance(groups, Sequence) and len(groups) else Dataset()
    return _header(_common(instance.header), first)


def is_enhanced(instance: Instance) -> bool:
    """Whether it is an enhanced CT, whatever number of frames it has."""
    return instance.sop_class_uid in ENHANCED_CT


def _common(header: Dataset) -> Dataset:
    """Return what is the same for all frames: the header without the groups of single frames, with the shared ones lifted."""
    out = _copy(header)
    for keyword in (*_GEOMETRY, _PER_FRAME):
        if keyword in out:
            del out[keyword]
    agents = list(_items(header, "ContrastBolusAgentSequence"))
    if agents and not elements.text(out, "ContrastBolusAgent"):
        _put(out, "ContrastBolusAgent", elements.text(agents[0], "CodeMeaning") or "YES")
    for shared in _items(header, _SHARED):
        _lift(shared, out, "UnassignedSharedConvertedAttributesSequence")
    return out


def _header(common: Dataset, group: Dataset, number: int = 0) -> Dataset:
    """Return the header of frame `number` of a series of frames; of the instance as a whole if that is 0."""
    out = _copy(common)
    if number:
        _put(out, "InstanceNumber", number)
        del out.NumberOfFrames
    _lift(group, out, "UnassignedPerFrameConvertedAttributesSequence")
    return out


def _copy(header: Dataset) -> Dataset:
    """Return a header with the same elements, undecoded text included."""
    out = Dataset(dict(header.items()))
    implicit, little = header.original_encoding
    out.set_original_encoding(implicit, little, header.original_character_set)
    return out


def _lift(groups: Dataset, out: Dataset, converted: str) -> None:
    """Put what functional groups say into the top level of `out`."""
    for sequence, keywords in _GROUPS.items():
        for item in _items(groups, sequence):
            _take(item, keywords, out)
    for item in _items(groups, "CTImageFrameTypeSequence"):
        if "FrameType" in item:
            _put(out, "ImageType", list(elements.texts(item, "FrameType")))
    for item in _items(groups, "FrameAnatomySequence"):
        named = [elements.text(code, "CodeMeaning") for code in _items(item, "AnatomicRegionSequence")]
        if named and named[0] and not elements.text(out, "BodyPartExamined"):
            _put(out, "BodyPartExamined", named[0].upper()[:16])
    used = [
        elements.text(i, "ContrastBolusAgentAdministered").upper() for i in _items(groups, "ContrastBolusUsageSequence")
    ]
    if used and all(u == "NO" for u in used) and "ContrastBolusAgent" in out:
        del out.ContrastBolusAgent
    for item in _items(groups, converted):
        _take(item, [k for k in _CONVERTED if not elements.text(out, k)], out)


def _take(item: Dataset, keywords: Iterable[str], out: Dataset) -> None:
    for keyword in keywords:
        if keyword in item:
            out[Tag(keyword)] = item[keyword]


def _put(out: Dataset, keyword: str, value: object) -> None:
    """Put a value into a header whose elements are others' too: setting an attribute would change those."""
    out.add_new(Tag(keyword), dictionary_VR(keyword), value)


def _items(ds: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a sequence; none if it is absent, or no sequence."""
    found: Any = elements.value(ds, keyword)
    if isinstance(found, Sequence):
        yield from found
