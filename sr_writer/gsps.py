"""Grayscale Softcopy Presentation State: outlines, circles and labels over the source images, without touching the window.

Agreed: ``build(result, sources, by) -> Dataset``; without findings one image says so in words. Of a grade of images
it shows the places of what was found about them.

Strictly read, a presentation state without Softcopy VOI LUT asks for no window at all; the viewers that show these objects
take the image's own then, and a copy of it would undo the window that a reader has chosen.

References
----------
PS3.3 section A.33.1 (Grayscale Softcopy Presentation State IOD), C.10.5 (Graphic Annotation), C.10.7 (Graphic Layer).
"""

from collections.abc import Mapping

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from dicom_io import elements
from dicom_io.model import ImageKey, Instance
from dicom_io.radiograph import inverse
from pipeline.result import Finding, Projection, Result
from sr_writer import codes
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import conclusion, finding_label, number, remark_line
from sr_writer.outline import Points, largest_slice, outlines, spread_slices
from sr_writer.quality import frame_points, only_quality, placed
from sr_writer.references import image_reference, referenced_series
from sr_writer.sc import body_part
from sr_writer.sources import Sources
from sr_writer.tracked import finding_mask, main_mask

LAYER = "AI"
OUTLINES = 7
"""Slices of one finding that get its outline, spread from its first to its last."""
SMALL_PX = 24
"""A finding narrower and lower than this gets a circle around it on its key slice."""
MARGIN_PX = 4
NUMBERS = ("volume", "long_axis", "diameter", "area", "area_at_detector")
"""What a label says of a finding: the first that it has."""
_RESCALE = ("RescaleIntercept", "RescaleSlope", "RescaleType")
_SHUTTER = (
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter",
)  # fmt: skip
"""What an image hides of itself (PS3.3 section C.7.6.11); a presentation state without it would show that."""
_COLOUR = (255, 193, 7)
_BANNER = ((0.2, 0.93), (0.8, 0.98))
"""Where each image says who marked it: corners of a box as shares of the displayed area."""


def build(result: Result, sources: Sources, by: Authorship) -> Dataset:
    """Return the annotations of `result`.

    Parameters
    ----------
    result : Result
        What was found, and where.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    """
    if only_quality(result):
        return _places(result, sources, by)
    ds = new_object(by, kind="gsps", sop_class_uid=GrayscaleSoftcopyPresentationStateStorage, modality="PR")
    graphics: dict[int, list[Dataset]] = {}
    texts: dict[int, list[Dataset]] = {}
    masks = [finding_mask(result, finding) for finding in result.findings]
    for z in {z for mask in masks for z in (largest_slice(mask), *spread_slices(mask, OUTLINES))}:
        # everything found that the image shows, not only what it was chosen for
        graphics[z] = [_polyline(part) for mask in masks if mask.plane(z).any() for part in outlines(mask, z)]
    for finding, mask in zip(result.findings, masks, strict=True):
        key = largest_slice(mask)
        largest = outlines(mask, key)[0]
        if (np.ptp(largest, axis=0) < SMALL_PX).all():
            graphics[key].append(_circle(largest))
        texts.setdefault(key, []).append(_label(_words(finding, result, by), largest))
    shown = sorted(graphics) or [largest_slice(main_mask(result))]
    for z in shown:
        texts.setdefault(z, []).append(_banner(result, by))
    images = {z: sources.images[result.geometry.images[z]] for z in shown}
    _state(ds, images, result, sources, by)
    ds.GraphicAnnotationSequence = [_annotation(images[z], graphics.get(z), texts[z]) for z in shown]
    ds.GraphicLayerSequence = [_layer()]
    return finish(ds, by)


def _places(result: Result, sources: Sources, by: Authorship) -> Dataset:
    """Return the places of what was found about the images, each with its number and what it is.

    Raises
    ------
    ValueError
        If nothing has a place.
    """
    ds = new_object(by, kind="gsps", sop_class_uid=GrayscaleSoftcopyPresentationStateStorage, modality="PR")
    graphics: dict[ImageKey, list[Dataset]] = {}
    texts: dict[ImageKey, list[Dataset]] = {}
    for remark in placed(result, sources.images):
        points = frame_points(remark.found, result.geometry.shape[1:])
        graphics.setdefault(remark.image, []).append(_polyline(points))
        words = "\r\n".join(remark_line(remark, tag, plain=True, hint=False) for tag in by.languages)
        label = _label(by.text(f"AI {remark.number} {words}"), points)
        texts.setdefault(remark.image, []).append(label)
    if not graphics:
        raise ValueError("no finding about the images has a place")
    for key in graphics:
        texts[key].append(_banner(result, by))
    images = {n: sources.images[key] for n, key in enumerate(graphics)}
    _state(ds, images, result, sources, by)
    ds.GraphicAnnotationSequence = [_annotation(sources.images[k], graphics[k], texts[k]) for k in graphics]
    ds.GraphicLayerSequence = [_layer()]
    return finish(ds, by)


def _state(ds: Dataset, images: Mapping[int, Instance], result: Result, sources: Sources, by: Authorship) -> None:
    """Fill in what a presentation state must say, none of which changes how the images look."""
    ds.BodyPartExamined = body_part(by)
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI_FINDINGS", "AI findings, unverified", ""
    ds.PresentationCreationDate, ds.PresentationCreationTime = by.date, by.time
    del ds.ContentDate, ds.ContentTime  # of images and documents; a state has the two above
    ds.ReferencedSeriesSequence = referenced_series(list(images.values()))
    first = next(iter(images.values())).header
    rescale = {tuple(elements.text(i.header, k) for k in _RESCALE) for i in images.values()}
    intercept, slope, kind = rescale.pop()
    if intercept and slope and not rescale:
        ds.RescaleIntercept, ds.RescaleSlope = intercept, slope
        ds.RescaleType = kind or ("HU" if elements.text(first, "Modality") == "CT" else "US")
    area = Dataset()
    rows, columns = result.geometry.shape[1:]
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    _size(area, result, sources.header(next(iter(images.values())).key))
    ds.DisplayedAreaSelectionSequence = [area]
    ds.PresentationLUTShape = "INVERSE" if inverse(first) else "IDENTITY"
    for keyword in ("ModalityLUTSequence", *(_SHUTTER if "ShutterShape" in first else ())):
        if keyword in first:
            ds[keyword] = first[keyword]
    if "ShutterShape" in ds:
        ds.ShutterPresentationValue = elements.integer(first, "ShutterPresentationValue") or 0


def _size(area: Dataset, result: Result, first: Dataset) -> None:
    """Say how large, or at least how wide beside its height, a pixel is: of a radiograph only a calibrated size holds."""
    geometry = result.geometry
    if isinstance(geometry, Projection) and (geometry.spacing is None or geometry.spacing.meaning != "calibrated"):
        high, wide = (1.0, 1.0) if geometry.spacing is None else (geometry.spacing.row_mm, geometry.spacing.column_mm)
        equal = abs(high - wide) < 1e-4 * wide
        area.PresentationPixelAspectRatio = [1, 1] if equal else [round(1000 * high), round(1000 * wide)]
    elif first.get("PixelSpacing"):
        area.PresentationPixelSpacing = first.PixelSpacing
    else:
        area.PresentationPixelAspectRatio = [1, 1]


def _layer() -> Dataset:
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = LAYER, 1
    layer.GraphicLayerRecommendedDisplayGrayscaleValue = 65535
    layer.GraphicLayerRecommendedDisplayCIELabValue = list(hd.color.CIELabColor.from_rgb(*_COLOUR).value)
    layer.GraphicLayerDescription = "AI findings, unverified"
    return layer


def _annotation(image: Instance, graphics: list[Dataset] | None, texts: list[Dataset]) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = [image_reference(image)]
    item.GraphicLayer = LAYER
    item.TextObjectSequence = texts
    if graphics:
        item.GraphicObjectSequence = graphics
    return item


def _polyline(points: Points) -> Dataset:
    """Return a closed line; pixel coordinates count from the corner of the first pixel here and in `outlines`."""
    return _graphic("POLYLINE", points)


def _circle(points: Points) -> Dataset:
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = float(np.linalg.norm(points - centre, axis=1).max()) + MARGIN_PX
    return _graphic("CIRCLE", np.array([centre, (centre[0] + radius, centre[1])]))


def _graphic(kind: str, points: Points) -> Dataset:
    item = Dataset()
    item.GraphicAnnotationUnits, item.GraphicDimensions = "PIXEL", 2
    item.NumberOfGraphicPoints = len(points)
    item.GraphicData = [round(float(v), 2) for v in points.reshape(-1)]
    item.GraphicType, item.GraphicFilled = kind, "N"
    return item


def _label(words: str, points: Points) -> Dataset:
    """Return a text tied to the rightmost point of an outline."""
    item = Dataset()
    item.UnformattedTextValue = words
    item.AnchorPoint = [round(float(v), 2) for v in points[points[:, 0].argmax()]]
    item.AnchorPointAnnotationUnits, item.AnchorPointVisibility = "PIXEL", "Y"
    return item


def _banner(result: Result, by: Authorship) -> Dataset:
    words = [codes.text("markings_banner", tag) for tag in by.languages]
    if only_quality(result):
        grade = result.quality.grade.lower()
        words += [codes.text("grade", tag, grade=codes.concept_label(f"grade_{grade}", tag)) for tag in by.languages]
    elif not result.findings:
        words += [conclusion(result, tag) for tag in by.languages]
    item = Dataset()
    item.UnformattedTextValue = by.text("\r\n".join(words))
    item.BoundingBoxAnnotationUnits = "DISPLAY"
    item.BoundingBoxTopLeftHandCorner, item.BoundingBoxBottomRightHandCorner = (list(corner) for corner in _BANNER)
    item.BoundingBoxTextHorizontalJustification = "CENTER"
    return item


def _words(finding: Finding, result: Result, by: Authorship) -> str:
    names = dict.fromkeys(finding_label(finding, result, tag) for tag in by.languages)
    values = {m.name: m for m in finding.measurements}
    numbers = [number(values[name], plain=True) for name in NUMBERS if name in values][:1]
    return by.text("\r\n".join(["AI " + " ".join(names), *numbers]))
