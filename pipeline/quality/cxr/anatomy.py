"""What the learned model sees, as measures: is it a chest, how it lies, where the lungs are cut.

Nothing of this is asked of an image that is no chest, and little of one that lies on its side: one finding says what is wrong,
and what depends on it is named as not evaluated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io.radiograph import Orientation
from dicom_io.reason import Reason
from pipeline.quality.cxr.image import Look, area_mean
from pipeline.quality.cxr.model import ORIENTATIONS, Model, Seen
from pipeline.quality.grade import Measured
from pipeline.reasons import REASONS
from pipeline.result import Place

Flags = npt.NDArray[np.bool_]
_MIRRORED: Orientation = ("R", "F")
SIDES = ("mirrored", "sides_contradict")
"""Measures of whether left is where it should be."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The part of the small copy within a plain frame, and what was seen in it.

    Parameters
    ----------
    look : Look
        The image.
    rows, columns : tuple[int, int]
        First and one past the last of the part, in pixels of the small copy.
    seen : Seen
        What the model saw in the part.
    """

    look: Look
    rows: tuple[int, int]
    columns: tuple[int, int]
    seen: Seen

    @property
    def lungs(self) -> tuple[Flags, Flags]:
        """The patient's right and left lung on the small copy."""
        shape = (self.rows[1] - self.rows[0], self.columns[1] - self.columns[0])
        out = []
        for inside in self.seen.mask(shape):
            whole = np.zeros(self.look.small.shape, np.bool_)
            whole[slice(*self.rows), slice(*self.columns)] = inside
            out.append(whole)
        return out[0], out[1]

    @property
    def longer_mm(self) -> float:
        """Length of the longer side of the part."""
        return self.look.mm * max(self.rows[1] - self.rows[0], self.columns[1] - self.columns[0])


def is_chest(field: Field, p: Mapping[str, Any]) -> bool:
    """Whether there is anything that the other measures can be taken of."""
    return bool(field.seen.chest >= p["chest"])


def lies_upright(field: Field) -> bool:
    """Whether head is up and feet are down, mirrored or not."""
    return field.seen.lying in {"upright", "mirrored"}


def tilt(field: Field, model: Model, p: Mapping[str, Any]) -> float:
    """Return by how many degrees the patient is tilted: the mean of what is seen in copies turned by known angles.

    The surer of a copy the model is, the more it counts. What a single look gets wrong differs from copy to copy.
    """
    part = field.look.small[slice(*field.rows), slice(*field.columns)]
    scale = min(1.0, p["longer"] / max(part.shape))
    small = area_mean(part, max(round(part.shape[0] * scale), 1), max(round(part.shape[1] * scale), 1))
    found, weight = [], []
    for angle in p["angles"]:
        turned = np.clip(ndimage.rotate(small, angle, reshape=False, order=1, mode="reflect"), 0, 1) if angle else small
        seen = model.look(np.ascontiguousarray(turned, np.float32))
        found.append(seen.tilt_deg + angle)
        weight.append(1 / max(seen.tilt_sd_deg, 1e-3) ** 2)
    return float(np.average(found, weights=weight))


def comparable(field: Field, p: Mapping[str, Any]) -> bool:
    """Whether both halves of the chest are seen as far as comparing them takes.

    What tells left from right is where heart and arch stand between the lungs: with much of one lung beyond a border, the
    middle of what is seen is not the middle of the chest.
    """
    margins = field.seen.margins
    if margins is None or min(margins.left, margins.right) < -p["sides_cut"]:
        return False
    smaller, larger = sorted(int(lung.sum()) for lung in field.lungs)
    return bool(smaller > p["sides_smaller"] * larger)


def lying(field: Field, stated: Orientation, degrees: float, *, turned: bool = False) -> dict[str, Measured]:
    """Return how the image is shown: its greys, its quarter turns, its sides, its tilt.

    What the header itself says of turns and sides is a remark elsewhere; here is what it does not say. `degrees` is the tilt;
    `turned`: the image was put upright as the header says, and a turn that is left contradicts that.
    """
    seen = field.seen
    share = dict(zip(ORIENTATIONS, (float(x) for x in seen.orientation), strict=True))
    lies = {name: v for name, v in share.items() if "turned" in name}
    mirrored = sum(v for name, v in share.items() if name.startswith("mirrored"))
    out = {"not_chest": Measured(1 - seen.chest, "1"), "inverted": Measured(seen.inverted, "1")}
    name = max(lies, key=lambda n: lies[n])
    words = {"degrees": name.rsplit("-", 1)[-1]}
    out["turn_contradicts" if turned else "turned"] = Measured(sum(lies.values()), "1", words=words)
    if lies_upright(field):
        out["tilt_deg"] = Measured(abs(degrees), "deg", words={"value": f"{abs(degrees):.0f}"})
        out["sides_contradict" if stated == _MIRRORED else "mirrored"] = Measured(
            1 - mirrored if stated == _MIRRORED else mirrored, "1", _all_of(field)
        )
    return out


def coverage(field: Field, p: Mapping[str, Any], *, in_doubt: bool) -> dict[str, Measured]:
    """Return by how many millimetres each border cuts the lungs; below 0: how far they stay away from it.

    Where the sides of the patient are in doubt none is named.
    """
    margins = field.seen.margins
    if margins is None:
        return {}
    (top, bottom), (first, last) = field.rows, field.columns
    strip = max(1, round(p["strip_mm"] / field.look.mm))
    out = {
        "cut_top_mm": _cut(field, margins.top, (top, top + strip), field.columns),
        "cut_bottom_mm": _cut(field, margins.bottom, (bottom - strip, bottom), field.columns),
        "cut_left_mm": _cut(field, margins.left, field.rows, (first, first + strip)),
        "cut_right_mm": _cut(field, margins.right, field.rows, (last - strip, last)),
    }
    right, left = field.lungs
    apart = (_lowest(right) - _lowest(left)) * field.look.mm
    base = "base" if in_doubt or abs(apart) < p["same_mm"] else "right_base" if apart > 0 else "left_base"
    out[f"cut_{base}_mm"] = out["cut_bottom_mm"]
    for border, near in (
        ("left", 1),
        ("right", -1),
    ):  # the patient's right lung lies on the left of an image that is not mirrored
        name = "cut_right_side_mm" if _reach(right, near) <= _reach(left, near) else "cut_left_side_mm"
        name = "cut_side_mm" if in_doubt else name
        made, other = out[f"cut_{border}_mm"], out.get(name)
        if other is None or made.value > other.value:
            out[name] = made
    return out


def _cut(field: Field, share: float, rows: tuple[int, int], columns: tuple[int, int]) -> Measured:
    mm = -share * field.longer_mm
    return Measured(mm, "mm", field.look.place(rows, columns), words=_beyond(mm))


def _beyond(mm: float) -> dict[str, str]:
    """Return how far beyond a border, or before it, something ends, in words."""
    where, where_zh = ("beyond", "超出") if mm > 0 else ("before", "距")
    return {"value": f"{abs(mm):.0f}", "where": where, "where_zh": where_zh}


def _lowest(lung: Flags) -> int:
    at = np.flatnonzero(lung.any(axis=1))
    return int(at[-1]) if at.size else -1


def _reach(lung: Flags, near: int) -> int:
    """Return how far a lung stays away from the left (1) or right (-1) border of the image."""
    columns = np.any(lung, axis=0)
    at = np.flatnonzero(columns if near > 0 else columns[::-1])
    return int(at[0]) if at.size else lung.shape[1]


def shape(field: Field) -> dict[str, Measured]:
    """Return how alike both lungs are in size, and how high they are for their width."""
    right, left = field.lungs
    sizes = [int(lung.sum()) for lung in (right, left)]
    if min(sizes) == 0:
        return {}
    both = right | left
    place = field.look.around(both)
    rows, columns = (np.flatnonzero(both.any(axis=axis)) for axis in (1, 0))
    return {
        "lung_size_ratio": Measured(min(sizes) / max(sizes), "1", place),
        "lung_height_to_width": Measured(float(np.ptp(rows) + 1) / float(np.ptp(columns) + 1), "1", place),
    }


def not_evaluated(field: Field) -> Iterator[Reason]:
    """Yield what the pixels leave open."""
    yield REASONS("cxr-landmarks")
    if not lies_upright(field):
        yield REASONS("cxr-not-upright")
    if field.look.assumed:
        yield REASONS("cxr-size-assumed")


def _all_of(field: Field) -> Place:
    return field.look.place(field.rows, field.columns)
