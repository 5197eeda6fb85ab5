"""A series of colour pictures that scrolls beside the source: one per slice, outlines burned in.

Agreed: ``build(result, volume, sources, by, modality="OT") -> Iterator[Dataset]``, one object a slice in the order of the
slices; each is made when it is asked for, so that memory does not grow with their number.

Position, orientation, spacing and instance number are those of the source slice, so that linked scrolling works. That makes
them objects of a Standard Extended SOP Class (PS3.4 section B.4.1): Secondary Capture itself knows no position.

References
----------
PS3.3 section A.8.1 (Secondary Capture Image IOD), C.7.4.1 (Frame of Reference), C.7.6.2 (Image Plane).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_io import elements
from dicom_io.model import Instance
from dicom_io.radiograph import Radiograph
from pipeline.result import Projection, Result
from sr_writer import codes, fonts, sc
from sr_writer.canvas import AMBER, GRADES, width_of
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import finding_label
from sr_writer.outline import Points, contours
from sr_writer.palette import segment_colours
from sr_writer.quality import frame_points, only_quality, placed, shown_images
from sr_writer.radiograph import Values, letters
from sr_writer.sources import Sources
from sr_writer.tiles import WINDOW_HU

_PLANE = ("ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_SIZE = ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription", "ImagerPixelSpacing")
"""What a pixel of a radiograph measures, and where (PS3.3 section 10.7.1)."""
_MARGIN_PX = 3
_NAMED_FROM_PX = 200
"""On smaller images a name beside a finding would hide more than it says."""


def build(result: Result, values: Values, sources: Sources, by: Authorship, modality: str = "OT") -> Iterator[Dataset]:
    """Yield one picture for every slice of `result`; of a grade of images for those of the places, or the middle one.

    Parameters
    ----------
    result : Result
        Masks on the source grid.
    values : Values
        What it was computed from.
    sources : Sources
        Among them every slice of the result's geometry.
    by : Authorship
        Whose, by whom, when.
    modality : str
        OT, so that nobody takes the pictures for images of the scanner; the source's for viewers that link only series of
        one modality.
    """
    wanted = set(shown_images(result, len(result.geometry.images))) if only_quality(result) else None
    for z, key in enumerate(result.geometry.images):
        if wanted is not None and key not in wanted:
            continue
        image = sources.images[key]
        ds = new_object(
            by, kind="overlay", sop_class_uid=SecondaryCaptureImageStorage, modality=modality, variant=modality
        )
        ds.SOPInstanceUID = by.object_uid("overlay", z, modality)
        ds.InstanceNumber = elements.integer(image.header, "InstanceNumber") or z + 1
        sc.fill(ds, draw(z, result, values, image, by), [image], by, "AI overlay: source image with outlines burned in")
        _place(ds, image, result, sources)
        yield finish(ds, by)


def _place(ds: Dataset, image: Instance, result: Result, sources: Sources) -> None:
    """Say where the picture lies: where its source lies."""
    first = sources.header(result.geometry.images[0])
    if not isinstance(result.geometry, Projection):
        ds.update({first[keyword].tag: first[keyword] for keyword in _PLANE if first.get(keyword)})
    elif result.geometry.spacing is not None:
        ds.update({image.header[k].tag: image.header[k] for k in _SIZE if elements.text(image.header, k)})
    if elements.numbers(image.header, "ImagePositionPatient"):
        ds.ImagePositionPatient = sources.position(image.key)
    ds.PatientOrientation = first.get("PatientOrientation") or ""
    if uid := result.geometry.frame_of_reference_uid:
        ds.FrameOfReferenceUID = uid
        ds.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")


def draw(z: int, result: Result, values: Values, image: Instance, by: Authorship) -> npt.NDArray[np.uint8]:
    """Return slice `z` with its outlines, shape (rows, columns, 3): findings in their colours with their names."""
    picture = Image.fromarray(grey(z, values, image, result.window)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    rows, columns = result.geometry.shape[1:]
    width = max(1, round(max(rows, columns) / 512))
    size = max(9, round(max(rows, columns) / 40))
    colours = segment_colours(result)
    language = fonts.drawable(by.options.languages)[0]
    found = {f.segment_number: finding_label(f, result, language) for f in result.findings}
    for segment in result.segments:
        k = z - segment.mask.offset[0]
        if not 0 <= k < segment.mask.box.shape[0] or not segment.mask.box[k].any():
            continue
        # Pillow counts from the centre of the first pixel, outlines from its corner
        corner = np.array([segment.mask.offset[2], segment.mask.offset[1]]) - 0.5
        parts = [points + corner for points in contours(segment.mask.box[k])]
        for points in parts:
            pen.line([tuple(p) for p in points], colours[segment.number], width, joint="curve")
        if (name := found.get(segment.number)) and columns >= _NAMED_FROM_PX:
            _write(pen, name, _beside(parts[0], width_of(name, size), columns), size, colours[segment.number], "lm")
    for remark in placed(result, (image.key,)) if only_quality(result) else ():
        points = frame_points(remark.found, (rows, columns))
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        colour = GRADES[remark.found.grade]
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)
        _write(pen, str(remark.number), (left + width + 2, top + width + 1), 2 * size, colour, "lt")
    banner = "   ".join(codes.text("markings_banner", tag) for tag in by.options.languages)
    for words in (f"{banner}   {by.identity.pipeline} {by.identity.version}", banner, "AI"):
        if width_of(words, size) < columns - 2 * _MARGIN_PX:
            _write(pen, words, ((columns - width_of(words, size)) / 2, rows - _MARGIN_PX), size, AMBER, "lb")
            break
    edges = ((_MARGIN_PX, rows / 2, "lm"), (columns - _MARGIN_PX, rows / 2, "rm"))
    for letter, (x, y, anchor) in zip(letters(result), edges, strict=False):  # head and feet nobody mistakes
        _write(pen, letter, (x, y), 2 * size, AMBER, anchor)
    return np.asarray(picture, np.uint8)


def _beside(points: Points, width: float, columns: int) -> tuple[float, float]:
    """Return where a line of text starts: right of an outline, or left of it where the image ends."""
    x, y = points[points[:, 0].argmax()]
    if x + _MARGIN_PX + width > columns:
        x, y = points[points[:, 0].argmin()]
        return float(x) - _MARGIN_PX - width, float(y)
    return float(x) + _MARGIN_PX, float(y)


def grey(z: int, values: Values, image: Instance, window: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
    """Return a plane as it is shown: in `window`, else CT in the lung window, a radiograph as it asks to be, others as their header says.

    Without a window there, all values but the lowest and highest hundredth.
    """
    if isinstance(values, Radiograph):
        return np.asarray(values.shown * 255, np.uint8)
    plane = values.array[z]
    if window is not None:
        low, high = window
    elif image.modality == "CT":
        low, high = WINDOW_HU
    else:
        centre, width = (elements.number(image.header, k) for k in ("WindowCenter", "WindowWidth"))
        if centre is not None and width:
            low, high = centre - width / 2, centre + width / 2
        else:
            low, high = (float(v) for v in np.percentile(plane, (1, 99)))
    shown: npt.NDArray[np.uint8] = np.clip((plane - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    if elements.text(image.header, "PhotometricInterpretation") == "MONOCHROME1":
        np.subtract(255, shown, out=shown)
    return shown


def _write(
    pen: ImageDraw.ImageDraw, words: str, at: tuple[float, float], size: int, colour: tuple[int, int, int], anchor: str
) -> None:
    x, y = at
    for part, font in fonts.runs(words, size):
        pen.text((x, y), part, colour, font=font, anchor=anchor, stroke_width=max(1, size // 10), stroke_fill=(0, 0, 0))
        x += font.getlength(part)
