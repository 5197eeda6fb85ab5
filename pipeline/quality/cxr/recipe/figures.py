"""What a trained network is worth on people it never saw: how often it sees what was done to their radiographs, and alarms at nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.quality.cxr.model import Margins, Model
from pipeline.quality.cxr.network import Floats
from pipeline.quality.cxr.recipe.data import Bools, Source

LONGER_SIDE_MM = 430.0
"""What the longer side of a copy without pixel spacing stands for, as in benchmarks/quality_defects.toml."""
BORDERS = ("top", "bottom", "left", "right")


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is said: ``[limits]`` of ``model.toml``."""

    not_upright: float
    inverted: float
    not_chest: float
    tilt_deg: float
    cut_mm: float


@dataclass(slots=True)
class Count:
    """How often something was so, of how many."""

    yes: int = 0
    of: int = 0

    def add(self, yes: bool) -> None:
        """Count one more."""
        self.yes += bool(yes)
        self.of += 1

    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval of 95 %."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.96, self.of, self.yes / self.of
        middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


@dataclass(slots=True)
class Figures:
    """Counts by (what, source), and lists of values by (what, source)."""

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def count(self, what: str, source: str, yes: bool) -> None:
        """Count a yes or no."""
        self.counts.setdefault((what, source), Count()).add(yes)

    def value(self, what: str, source: str, value: float) -> None:
        """Keep a value."""
        self.values.setdefault((what, source), []).append(float(value))


def of_sources(model: Model, sources: Iterable[Source], limits: Limits) -> Figures:
    """Look at every radiograph, clean and with everything done to it that the network should see."""
    out = Figures()
    for source in sources:
        shown = np.asarray(source.shown / 255, np.float32)
        _lying(model, source, shown, limits, out)
        _tilted(model, source, shown, limits, out)
        if source.lungs is not None:
            _cut(model, source, shown, limits, out)
    return out


def of_others(model: Model, pictures: Mapping[str, Iterable[NDArray[np.uint8]]], limits: Limits) -> Figures:
    """Look at pictures that are no chest radiographs, by where they come from."""
    out = Figures()
    for kind, several in pictures.items():
        for picture in several:
            seen = model.look(picture.astype(np.float32) / 255)
            out.value("chest", kind, seen.chest)
            out.count("non-chest", kind, 1 - seen.chest > limits.not_chest)
    return out


def _lying(model: Model, source: Source, shown: Floats, limits: Limits, out: Figures) -> None:
    for k in range(8):
        made = np.ascontiguousarray(np.rot90(shown[:, ::-1] if k >= 4 else shown, k % 4))
        seen = model.look(made)
        alarm = 1 - float(seen.orientation[0]) > limits.not_upright
        out.value(f"not-upright {k}", source.source, 1 - float(seen.orientation[0]))
        if k:
            out.count(f"orientation {k}", source.source, alarm)
            out.count(f"orientation {k} named", source.source, int(seen.orientation.argmax()) == k)
            continue
        out.value("inverted 0", source.source, seen.inverted)
        out.value("clean chest", source.source, seen.chest)
        out.count("clean: not upright", source.source, alarm)
        out.count("clean: inverted", source.source, seen.inverted > limits.inverted)
        out.count("clean: not chest", source.source, 1 - seen.chest > limits.not_chest)
        out.count("clean: tilt", source.source, abs(seen.tilt_deg) > limits.tilt_deg)
        out.value("clean tilt", source.source, seen.tilt_deg)
        if seen.margins is not None:  # nothing but the lungs: without letters and borders
            found = borders(np.logical_or(*seen.mask((shown.shape[0], shown.shape[1]))))
            rows, columns = shown.shape
            box = shown[found["top"] : rows - found["bottom"], found["left"] : columns - found["right"]]
            for mirrored, what in (
                (box[:, ::-1], "orientation 4 in the lungs' box"),
                (box, "clean: not upright in the lungs' box"),
            ):
                alone = model.look(np.ascontiguousarray(mirrored)).orientation
                out.count(what, source.source, 1 - float(alone[0]) > limits.not_upright)
        if source.lungs is not None:
            right, left = seen.mask((source.shown.shape[0], source.shown.shape[1]))
            out.value(
                "dice",
                source.source,
                2 * ((right | left) & source.lungs.any(0)).sum() / ((right | left).sum() + source.lungs.any(0).sum()),
            )
            out.value(
                "drawn lung found",
                source.source,
                ((right | left) & source.lungs.any(0)).sum() / source.lungs.any(0).sum(),
            )
    seen = model.look(1 - shown)
    out.count("inversion", source.source, seen.inverted > limits.inverted)
    out.value("inverted 1", source.source, seen.inverted)


def _tilted(model: Model, source: Source, shown: Floats, limits: Limits, out: Figures) -> None:
    clean = model.look(_inscribed(shown, 0.0)).tilt_deg
    out.value("tilt 0", source.source, clean)
    out.count("clean, cut alike: tilt", source.source, abs(clean) > limits.tilt_deg)
    for degrees in (-10.0, 10.0):
        found = model.look(_inscribed(shown, degrees)).tilt_deg
        out.value(f"tilt {degrees:+.0f}", source.source, found)
        out.value("tilt error", source.source, found - clean - degrees)
        out.count("tilt", source.source, abs(found) > limits.tilt_deg)


def _inscribed(shown: Floats, clockwise_deg: float, for_deg: float = 10.0) -> Floats:
    """Turn a picture and cut it to the upright rectangle that holds no corner of nothing after a turn by `for_deg`."""
    rows, columns = shown.shape
    whole = Image.fromarray(shown).rotate(-clockwise_deg, Image.Resampling.BILINEAR)
    c, s = np.cos(np.deg2rad(for_deg)), np.sin(np.deg2rad(for_deg))
    shrink = min(rows / (rows * c + columns * s), columns / (columns * c + rows * s))
    height, width = int(rows * shrink) - 2, int(columns * shrink) - 2
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(np.asarray(whole, np.float32)[top : top + height, left : left + width])


def _cut(model: Model, source: Source, shown: Floats, limits: Limits, out: Figures) -> None:
    if source.lungs is None:
        return
    truth = borders(np.asarray(source.lungs.any(axis=0)))
    mm = LONGER_SIDE_MM / max(shown.shape)
    seen = model.look(shown).margins
    clean = dict.fromkeys(BORDERS, 0.0) if seen is None else millimetres(seen)
    for border in BORDERS:
        far = truth[border] * mm
        if far > 2:  # not cut as it stands
            out.value(f"margin error {border}", source.source, clean[border] - far)
            out.count(f"clean: cut {border}", source.source, clean[border] < limits.cut_mm)
            out.value(f"clean margin {border}", source.source, clean[border])
        lost = round(truth[border] + 10.0 / mm)
        rows, columns = shown.shape
        part = {
            "top": shown[lost:], "bottom": shown[: rows - lost], "left": shown[:, lost:], "right": shown[:, : columns - lost],
        }[border]  # fmt: skip
        after = model.look(np.ascontiguousarray(part)).margins
        if after is None:
            out.count(f"cut {border}", source.source, False)
            continue
        found = getattr(after, border) * max(part.shape) * mm
        out.value(f"cut margin {border}", source.source, found)
        out.count(f"cut {border}", source.source, found < limits.cut_mm)


def borders(mask: Bools) -> dict[str, int]:
    """Return the distance from each border to the mask in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "top": int(rows[0]), "bottom": int(mask.shape[0] - 1 - rows[-1]), "left": int(columns[0]), "right": int(mask.shape[1] - 1 - columns[-1]),
    }  # fmt: skip


def millimetres(margins: Margins) -> dict[str, float]:
    """Return margins of a picture whose longer side is `LONGER_SIDE_MM`."""
    return {b: getattr(margins, b) * LONGER_SIDE_MM for b in BORDERS}
