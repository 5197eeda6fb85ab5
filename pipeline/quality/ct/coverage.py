"""Whether the images hold the lungs whole: which end or side is cut, and by about how much.

How much is lacking is not seen but extrapolated: the share that the cross-section at the edge of the images has of the
largest one, against how cross-sections grow from the tip of a lung. In whole chests a lung's cross-section grows from
the apex by about 1.1 % of the largest a millimetre, and from the costophrenic angle like a square to the largest at
some 60 mm (both measured on few chests, and different for each side of each person: say "about").
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.quality.ct.anatomy import LEFT, RIGHT, Chest
from pipeline.quality.ct.view import View
from pipeline.quality.grade import Measured

Box = tuple[slice, slice, slice]


def coverage(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``apex_cut_mm``, ``base_cut_mm`` and ``side_cut_mm``; `p` is the table ``coverage``."""
    largest = {s: max(float(_areas(chest, s).max()), 1.0) for s in (RIGHT, LEFT)}
    out = {}
    for name, level, lacking in (("apex_cut_mm", -1, _above), ("base_cut_mm", 0, _below)):
        share = {s: float(_areas(chest, s)[level]) / largest[s] for s in (RIGHT, LEFT)}
        mm = {s: lacking(v, p) if v > p["end_least"] else 0.0 for s, v in share.items()}
        out[name] = _worse(view, chest, mm, np.s_[level % len(chest.lung)])
    return out | {"side_cut_mm": _sides(view, chest, p)}


def _areas(chest: Chest, side: int) -> npt.NDArray[np.int64]:
    areas: npt.NDArray[np.int64] = np.count_nonzero(chest.lung == side, axis=(1, 2))
    return areas


def _above(share: float, p: dict[str, Any]) -> float:
    return share * float(p["apex_mm"])


def _below(share: float, p: dict[str, Any]) -> float:
    return float(np.sqrt(share)) * float(p["base_mm"])


def _worse(view: View, chest: Chest, mm: Mapping[int, float], level: int) -> Measured:
    """Return the larger of both sides, and where."""
    worst = max(mm.values())
    if worst <= 0:
        return Measured(0.0, "mm")
    sides = [s for s in (RIGHT, LEFT) if mm[s] > 0.5 * worst]
    shown = np.isin(chest.lung[level], sides)
    return Measured(worst, "mm", view.place(_box(shown, level)), words=_words(sides, mm))


def _words(sides: list[int], mm: Mapping[int, float]) -> dict[str, object]:
    both = len(sides) == 2
    side = "both" if both else "right" if sides[0] == RIGHT else "left"
    return {"mm": f"{max(mm.values()):.0f}", "side": {"both": "both sides", "right": "right", "left": "left"}[side],
            "side_zh": {"both": "双侧", "right": "右侧", "left": "左侧"}[side]}  # fmt: skip


def _box(shown: npt.NDArray[np.bool_], level: int) -> Box:
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    return (
        slice(level, level + 1),
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )


def _sides(view: View, chest: Chest, p: dict[str, Any]) -> Measured:
    """Measure where a lung lies at the side, the front or the back of the images: from chord to the arc that is lacking."""
    edge = _edge(view, chest)
    mm: dict[int, float] = {}
    where: dict[int, int] = {}
    for side in (RIGHT, LEFT):
        mine = chest.lung == side
        chord = np.zeros(len(mine))
        for axis, step in ((2, view.spacing[1]), (1, view.spacing[2])):
            chord = np.maximum(chord, np.count_nonzero((mine & edge).any(axis=axis), axis=1) * step)
        radius = np.count_nonzero(mine.any(axis=2), axis=1).max() * view.spacing[1] / 2
        cut = np.sort(chord)[-p["side_levels"]] if len(chord) >= p["side_levels"] else 0.0
        half = min(cut / 2, radius)
        mm[side] = float(radius - np.sqrt(radius**2 - half**2)) if cut > p["side_least_mm"] else 0.0
        where[side] = int(chord.argmax())
    return _worse(view, chest, mm, where[max(mm, key=lambda s: mm[s])])


def body_cut(view: View, chest: Chest, p: dict[str, Any]) -> dict[str, Measured]:
    """Return ``body_cut_share``: of how many levels with lung the field of view cuts the body beside, in front or behind."""
    levels = chest.levels
    touching = (chest.body & _edge(view, chest))[levels.start : levels.stop]
    along = np.maximum(
        np.count_nonzero(touching.any(axis=2), axis=1) * view.spacing[1],
        np.count_nonzero(touching.any(axis=1), axis=1) * view.spacing[2],
    )
    cut = along > p["body_least_mm"]
    at = levels.start + int(along.argmax())
    return {"body_cut_share": Measured(float(cut.mean()), "1", view.whole(view.plane(at)) if view.axial else None)}


def _edge(view: View, chest: Chest) -> npt.NDArray[np.bool_]:
    """Return the border of the field of view: that of the images, or of the reconstruction circle."""
    edge = np.zeros(chest.lung.shape, bool)
    edge[:, [0, -1], :] = edge[:, :, [0, -1]] = True
    if view.padded is not None:
        grown = view.padded.copy()
        for _ in range(3):
            grown |= _neighbours(grown)
        edge |= grown
    return edge


def _neighbours(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    out = np.zeros_like(mask)
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    out[:, :, 1:] |= mask[:, :, :-1]
    out[:, :, :-1] |= mask[:, :, 1:]
    return out
