"""What must hold for pictures, presentation states and PDF documents."""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.errors import DicomIOError
from dicom_io.model import ImageKey
from dicom_io.radiograph import inverse
from dicom_io.reason import Reason
from sr_writer import gate_quality, gate_radiograph
from sr_writer.gate_claim import Claim
from sr_writer.gate_count import Recount
from sr_writer.gate_outline import fits
from sr_writer.gate_seg import TOLERANCE_COSINE, TOLERANCE_MM
from sr_writer.gate_sources import Slice, Sources, frames_named, image_of
from sr_writer.reasons import REASONS

SHOWN_HU = (-1400.0, 200.0)
STEP = 3
"""Every so many rows and columns a picture is compared with its image."""
LEFT_OVER = 0.7
"""Another image, or the same mirrored, is what a picture shows if it leaves less than this share of it unexplained."""
BLANK_HU = 50.0
"""Standard deviation within `SHOWN_HU` from which a slice shows something."""
_STORED: Mapping[str, object] = {
    "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8,
    "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
}  # fmt: skip
"""How the pixels of a picture are stored, as they are read here."""
_TYPES = {"POINT", "POLYLINE", "INTERPOLATED", "CIRCLE", "ELLIPSE"}
_FONT = re.compile(rb"/Type\s*/Font(?![A-Za-z])")
_DESCRIPTOR = re.compile(rb"/Type\s*/FontDescriptor(?![A-Za-z])")
_WITHOUT_FILE = re.compile(
    rb"/Subtype\s*/(Type0|Type3)(?![A-Za-z])"
    rb"|/BaseFont\s*/(Helvetica|Courier)(-Bold|-Oblique|-BoldOblique)?(?![A-Za-z-])"
    rb"|/BaseFont\s*/(Times-(Roman|Bold|Italic|BoldItalic)|Symbol|ZapfDingbats)(?![A-Za-z-])"
)
_STREAM = re.compile(rb"stream\r?\n(.*?)\r?\n?endstream", re.DOTALL)


def check_picture(ds: Dataset, raw: Sources) -> Iterator[Reason]:
    """Yield what is wrong with a picture that says where in the body it lies: on its one source image."""
    named = [image_of(i) for i in ds.get("SourceImageSequence") or ()]
    if not named:
        yield REASONS("required-missing", what="SourceImageSequence")
    if any(ds.get(keyword) != value for keyword, value in _STORED.items()):
        yield REASONS("picture-differs")
    place = raw.slices.get(named[0]) if len(named) == 1 else None
    if "ImagePositionPatient" in ds or "FrameOfReferenceUID" in ds:
        yield from _placed(ds, place, raw)
    elif place is not None and place.shadow is not None:
        yield from gate_radiograph.check(ds, place)


def _placed(ds: Dataset, place: Slice | None, raw: Sources) -> Iterator[Reason]:
    """Check that a picture lies where its image does, and looks like it."""
    if place is None:
        yield REASONS("reference-dangling", what="SourceImageSequence")
        return
    if str(ds.get("FrameOfReferenceUID") or "") != place.frame_of_reference_uid:
        yield REASONS("frame-of-reference-differs")
    if (int(ds.Rows), int(ds.Columns)) != place.shape:
        yield REASONS("geometry-differs", what="Rows, Columns")
    for keyword, there, tolerance in (
        ("ImageOrientationPatient", place.orientation, TOLERANCE_COSINE),
        ("PixelSpacing", place.spacing, TOLERANCE_MM / 10),
    ):
        found = np.array(ds.get(keyword) or (), float)
        if found.shape != (len(there),) or (there and np.abs(found - there).max() > tolerance):
            yield REASONS("geometry-differs", what=keyword)
    at = np.array(ds.get("ImagePositionPatient") or (), float)
    if at.shape != (len(place.position),) or (len(at) and np.abs(at - place.position).max() > TOLERANCE_MM):
        yield REASONS("position-differs")
    yield from _shows(ds, place, raw)


def _shows(ds: Dataset, place: Slice, raw: Sources) -> Iterator[Reason]:
    """Check that what is grey in a picture looks like its image, and not like a neighbour of it or its mirror image."""
    if place.modality != "CT" or (int(ds.Rows), int(ds.Columns)) != place.shape:
        return
    pixels = np.frombuffer(ds.PixelData, np.uint8)[: 3 * place.shape[0] * place.shape[1]]
    seen = pixels.reshape(*place.shape, 3)[::STEP, ::STEP]
    grey = (seen[..., 0] == seen[..., 1]) & (seen[..., 1] == seen[..., 2])
    shade = seen[..., 0].astype(float)
    try:
        own = np.clip(place.values(), *SHOWN_HU)
        others = [np.clip(near.values(), *SHOWN_HU) for near in _neighbours(place, raw)]
    except (DicomIOError, OSError, ValueError):
        return
    others += [own[:, ::-1], own[::-1]]
    right = _alike(shade, own, grey)
    if right is None:
        return
    if right <= 0 or any(1 - (_alike(shade, o, grey) or 0.0) < LEFT_OVER * (1 - right) for o in others):
        yield REASONS("picture-differs")


def _alike(shade: npt.NDArray[np.float64], image: npt.NDArray[np.float32], grey: npt.NDArray[np.bool_]) -> float | None:
    """Return the correlation of picture and image where the picture is grey; None if there is nothing to compare."""
    a, b = shade[grey], image[::STEP, ::STEP][grey].astype(float)
    if a.size < 100 or not b.std():
        return None
    if not a.std():  # a blank picture: of a slice on which there is something to see?
        return 0.0 if b.std() > BLANK_HU else None
    return float(np.corrcoef(a, b)[0, 1])


def _neighbours(place: Slice, raw: Sources) -> list[Slice]:
    if len(place.position) != 3 or len(place.orientation) != 6:
        return []
    normal = np.cross(place.orientation[:3], place.orientation[3:])
    alike = [
        s for s in raw.slices.values()
        if s.series_instance_uid == place.series_instance_uid and s.shape == place.shape and len(s.position) == 3
    ]  # fmt: skip
    away = [(float(np.dot(np.subtract(s.position, place.position), normal)), n) for n, s in enumerate(alike)]
    below = max((d for d in away if d[0] < -TOLERANCE_MM), default=None)
    above = min((d for d in away if d[0] > TOLERANCE_MM), default=None)
    return [alike[d[1]] for d in (below, above) if d is not None]


def check_presentation(
    ds: Dataset, raw: Sources, recounts: Mapping[str, Recount], claim: Claim | None
) -> Iterator[Reason]:
    """Yield what is wrong with a presentation state: what it draws lies in its images, and where something was found."""
    listed = {
        (str(i.ReferencedSOPInstanceUID), frame)
        for series in ds.get("ReferencedSeriesSequence") or ()
        for i in series.get("ReferencedImageSequence") or ()
        for frame in frames_named(i) or (0,)
    }
    yield from _as_stored(ds, _shown(listed, raw), ours=claim is not None)
    if claim is not None and claim.graded.only:
        yield from gate_quality.check_presentation(ds, claim.graded, raw)
    layers = {str(layer.GraphicLayer) for layer in ds.get("GraphicLayerSequence") or ()}
    for annotation in ds.get("GraphicAnnotationSequence") or ():
        named = [image_of(i) for i in annotation.get("ReferencedImageSequence") or ()]
        if not named or not set(named) <= listed:
            yield REASONS("reference-dangling", what="ReferencedImageSequence")
            continue
        if annotation.get("GraphicLayer") not in layers:
            yield REASONS("required-missing", what="GraphicLayer")
        shapes = [raw.slices[image].shape for image in named if image in raw.slices]
        drawn = list(annotation.get("GraphicObjectSequence") or ())
        for graphic in drawn:
            yield from _graphic(graphic, named, shapes, recounts)
        if claim is not None and not _outlines_only(drawn):
            yield REASONS("outline-differs")
        for text in annotation.get("TextObjectSequence") or ():
            yield from _text(text, shapes, claim)


def _text(text: Dataset, shapes: Sequence[tuple[int, int]], claim: Claim | None) -> Iterator[Reason]:
    said = str(text.get("UnformattedTextValue") or "")
    if claim is not None and (odd := claim.allows(said)) is not None:
        yield REASONS("number-differs", what=odd)
    if claim is not None and (odd := claim.graded.misquoted(said)) is not None:
        yield REASONS("quality-differs", what=odd)
    for keyword, units in (
        ("AnchorPoint", "AnchorPointAnnotationUnits"), ("BoundingBoxTopLeftHandCorner", "BoundingBoxAnnotationUnits"),
        ("BoundingBoxBottomRightHandCorner", "BoundingBoxAnnotationUnits"),
    ):  # fmt: skip
        if keyword in text and not _inside(text[keyword].value, str(text.get(units)), shapes):
            yield REASONS("annotation-outside", what=keyword)


def _as_stored(ds: Dataset, shown: Sequence[Slice], *, ours: bool) -> Iterator[Reason]:
    """Check that a presentation state turns, covers, rescales, inverts and measures no image otherwise than it does itself.

    Of our own none has a window: a reader's is not undone (decision 37).
    """
    if (
        ds.get("ImageHorizontalFlip", "N") != "N"
        or ds.get("ImageRotation")
        or (ours and "SoftcopyVOILUTSequence" in ds)
    ):
        yield REASONS("picture-differs")
    for place in shown:
        header = place.instance.header
        rescale = float(ds.get("RescaleSlope", place.rescale[0])), float(ds.get("RescaleIntercept", place.rescale[1]))
        dark = inverse(header) if place.shadow is None else place.shadow.inverse
        turned = dark != (ds.get("PresentationLUTShape") == "INVERSE")
        if turned or rescale != place.rescale or ("ShutterShape" in ds and "ShutterShape" not in header):
            yield REASONS("picture-differs")
        for area in ds.get("DisplayedAreaSelectionSequence") or ():
            stated = elements.numbers(area, "PresentationPixelSpacing")
            if stated and (
                len(place.spacing) != 2 or np.abs(np.subtract(stated, place.spacing)).max() > TOLERANCE_MM / 10
            ):
                yield REASONS("geometry-differs", what="PresentationPixelSpacing")


def _shown(listed: Iterable[tuple[str, int]], raw: Sources) -> list[Slice]:
    return [raw.slices[ImageKey(*image)] for image in listed if ImageKey(*image) in raw.slices]


def _outlines_only(drawn: Sequence[Dataset]) -> bool:
    """Say whether all drawings are outlines, which are held against masks, and circles around one of these: our own are."""
    lines = [_points(g) for g in drawn if _closed(g)]

    def around(circle: Dataset) -> bool:
        centre, edge = _points(circle)
        radius = np.linalg.norm(edge - centre) + 0.05  # coordinates have two decimals
        return any(np.linalg.norm(line - centre, axis=1).max() <= radius for line in lines)

    return all(_closed(g) or (g.GraphicType == "CIRCLE" and around(g)) for g in drawn)


def _points(graphic: Dataset) -> npt.NDArray[np.float64]:
    return np.array(graphic.GraphicData, float).reshape(-1, 2)


def _closed(graphic: Dataset) -> bool:
    points = _points(graphic)
    return graphic.GraphicType == "POLYLINE" and len(points) > 3 and np.allclose(points[0], points[-1], atol=0.01)


def _graphic(
    graphic: Dataset, named: Sequence[ImageKey], shapes: Sequence[tuple[int, int]], recounts: Mapping[str, Recount]
) -> Iterator[Reason]:
    points = _points(graphic)
    if len(points) != graphic.NumberOfGraphicPoints or graphic.GraphicType not in _TYPES:
        yield REASONS("required-missing", what="GraphicData")
        return
    # a circle is its centre and a point of its line, which may lie outside of a small image
    counts = points[:1] if graphic.GraphicType == "CIRCLE" else points
    if not _inside(counts, str(graphic.GraphicAnnotationUnits), shapes):
        yield REASONS("annotation-outside", what="GraphicData")
    if _closed(graphic) and graphic.GraphicAnnotationUnits == "PIXEL" and recounts:
        masks = [runs for r in recounts.values() for (_, image), runs in r.frames.runs.items() if image in named]
        if not any(fits(points, mask) for mask in masks):
            yield REASONS("outline-differs")


def _inside(points: object, units: str, shapes: Sequence[tuple[int, int]]) -> bool:
    """Whether points lie inside of every image they are drawn on; half a pixel around it counts as inside."""
    at = np.array(points, float).reshape(-1, 2)
    if units == "DISPLAY":
        return bool((at >= 0).all() and (at <= 1).all())
    return units == "PIXEL" and all((at >= -0.5).all() and (at <= (c + 0.5, r + 0.5)).all() for r, c in shapes)


def check_pdf(ds: Dataset, raw: Sources) -> Iterator[Reason]:
    """Yield what is wrong with a PDF document: whole, its fonts embedded, and it names its source images."""
    data = bytes(ds.get("EncapsulatedDocument") or b"")
    if not data.startswith(b"%PDF-") or b"%%EOF" not in data[-1100:]:
        yield REASONS("document-unsound", what="PDF")
    if not fonts_embedded(data):
        yield REASONS("document-unsound", what="fonts")
    named = {str(i.get("ReferencedSOPInstanceUID")) for i in ds.get("SourceInstanceSequence") or ()}
    if not named & set(raw.instances):
        yield REASONS("required-missing", what="SourceInstanceSequence")


def fonts_embedded(data: bytes) -> bool:
    """Say whether every font of a PDF document is in it, so that a reader without Chinese fonts shows it all the same.

    Of the fourteen fonts that every reader has (ISO 32000-1 section 9.6.2.2) the name is enough.
    """
    parts = [data]
    for match in _STREAM.finditer(data):
        try:
            parts.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    for part in parts:
        for found in _FONT.finditer(part):
            font = _dictionary(part, found.start())
            if not _WITHOUT_FILE.search(font) and b"/FontDescriptor" not in font:
                return False
        for found in _DESCRIPTOR.finditer(part):
            if b"/FontFile" not in _dictionary(part, found.start()):
                return False
    return True


def _dictionary(part: bytes, at: int) -> bytes:
    """Return the innermost dictionary around a place."""
    depth, begin = 0, at
    while begin > 0:
        begin -= 1
        if part[begin : begin + 2] == b">>":
            depth += 1
        elif part[begin : begin + 2] == b"<<":
            if not depth:
                break
            depth -= 1
    depth, end = 0, begin
    while end < len(part):
        pair = part[end : end + 2]
        if pair == b"<<":
            depth += 1
            end += 2
        elif pair == b">>":
            depth -= 1
            end += 2
            if not depth:
                break
        else:
            end += 1
    return part[begin:end]
