"""Every check of one radiograph, in the order in which one decides what the next can be asked of."""

from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.radiograph import Radiograph
from dicom_io.reason import Reason
from pipeline.errors import NotAnalysed
from pipeline.quality.cxr import anatomy, header, marks, pixels, turn
from pipeline.quality.cxr.anatomy import Field
from pipeline.quality.cxr.image import Look
from pipeline.quality.cxr.model import LEAST, Model
from pipeline.quality.cxr.parameters import parameters
from pipeline.quality.grade import Measured
from pipeline.reasons import REASONS


def measure(head: Dataset, image: Radiograph, model: Model) -> tuple[dict[str, Measured], list[Reason]]:
    """Return what was measured, by name, and what could not be.

    An image that is turned by its header is put upright first; places are those of the image as stored.

    Raises
    ------
    NotAnalysed
        ``cxr-no-chest``: the pixels show something else, and the header does not promise a chest; ``cxr-narrow``.
    """
    turns = turn.quarters(image.orientation)
    said = header.measures(head, image, parameters())
    upright = turn.upright(image, turns)
    measures, open_ = _of_pixels(head, upright, model, turned=bool(turns))
    return said | turn.as_stored(measures, turns, upright.shown.shape), [*header.not_evaluated(head), *open_]


def _of_pixels(
    head: Dataset, image: Radiograph, model: Model, *, turned: bool
) -> tuple[dict[str, Measured], list[Reason]]:
    """Return what the pixels of an upright image say; `turned`: it is so because the header told how to turn it."""
    p = parameters()
    look = Look.at(image, **p["image"])
    rows, columns = marks.frame(look, p["frame"])
    if min(rows[1] - rows[0], columns[1] - columns[0]) < LEAST:
        raise NotAnalysed(REASONS("cxr-narrow"))
    field = Field(look, rows, columns, model.look(look.small[slice(*rows), slice(*columns)]))
    if not anatomy.is_chest(field, p["model"]):
        if not promised(head):
            raise NotAnalysed(REASONS("cxr-no-chest"))
        return {"not_chest": Measured(1 - field.seen.chest, "1")}, []
    if field.seen.inverted > p["model"]["inverted"]:
        look = look.negative()
    degrees = anatomy.tilt(field, model, p["tilt"]) if anatomy.lies_upright(field) else 0.0
    right, left = field.lungs
    lungs = right | left if (right | left).any() else pixels.middle(look.small.shape, p["field"]["rim"])
    open_: list[Reason] = []
    measures = {
        **anatomy.lying(field, image.orientation, degrees, turned=turned),
        **pixels.clipped(look, lungs, p["clipped"]),
        **pixels.sharpness(look, p["sharpness"]),
        **marks.framed(look, rows, columns),
        **marks.objects(look, right | left, p["objects"]),
        **marks.writing(look, right | left, p["writing"]),
    }
    if anatomy.lies_upright(field):
        in_doubt = any(name in measures and measures[name].value > p["model"]["sides"] for name in anatomy.SIDES)
        measures |= anatomy.coverage(field, p["coverage"], in_doubt=in_doubt) | anatomy.shape(field)
        if not anatomy.comparable(field, p["model"]):
            for name in anatomy.SIDES:
                if name in measures and 1 - p["model"]["sides_sure"] < measures[name].value < p["model"]["sides_sure"]:
                    del measures[name]
                    open_.append(REASONS("cxr-sides-cut"))
    if pixels.bits(look) >= p["noise"]["least_bits"]:
        measures |= pixels.noise(look, lungs, p["noise"])
    return measures, [*open_, *anatomy.not_evaluated(field), *_open(measures)]


def promised(head: Dataset) -> bool:
    """Whether the header says that this is a chest."""
    if elements.text(head, "BodyPartExamined"):
        return True  # others were refused before
    words = " ".join(elements.text(head, k) for k in ("StudyDescription", "SeriesDescription", "ProtocolName")).upper()
    return any(word in words for word in parameters()["views"]["chest_words"])


def _open(measures: dict[str, Any]) -> Iterator[Reason]:
    if "sharpness" not in measures:
        yield REASONS("cxr-sharpness-coarse")
    if "noise_percent" not in measures:
        yield REASONS("cxr-noise-of-copy")
