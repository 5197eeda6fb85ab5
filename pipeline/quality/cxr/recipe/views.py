"""Views of sources: turned, mirrored, tilted, cut and changed in grey, with the truth of each."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.quality.cxr.network import INNER, SIDE
from pipeline.quality.cxr.recipe.data import BASE, Bools, Bytes, onto_base

Array = NDArray[np.float64]
MIDDLE = (BASE - 1) / 2


@dataclass(slots=True, eq=False)
class Pool:
    """Everything that views are taken of, on canvases of `BASE` pixels.

    Parameters
    ----------
    pictures : tensor, [n, BASE, BASE] uint8
    lungs : tensor, [n, 2, BASE, BASE] uint8
        255 where lung is, on the left and on the right of the picture.
    known : tensor, [n, BASE, BASE] uint8
        255 where it is known whether there is lung: nowhere without a mask; and beyond a border only where no lung meets that border.
    boxes : ndarray, [n, 4]
        Top, left, height, width of the picture.
    chest : ndarray, [n] bool
        A frontal chest radiograph.
    hulls : list of (ndarray, [k, 2]) or None
        Points (x, y) around both lungs, from the middle of the canvas.
    """

    pictures: torch.Tensor
    lungs: torch.Tensor
    known: torch.Tensor
    boxes: Array
    chest: NDArray[np.bool_]
    hulls: list[Array | None]

    def give_lungs(self, n: int, lungs: Bools) -> None:
        """Set the masks of picture `n`, [2, row, column] in any size of the picture's shape."""
        top, left, height, width = map(int, self.boxes[n])
        placed = np.stack([onto_base(m)[0] for m in lungs])
        self.lungs[n] = torch.from_numpy(placed)
        both = placed.max(axis=0) > 127
        box = both[top : top + height, left : left + width]
        known = np.zeros((BASE, BASE), np.uint8)
        known[top : top + height, left : left + width] = 255
        free = {
            name: not part.any()
            for name, part in (("t", box[:2]), ("b", box[-2:]), ("l", box[:, :2]), ("r", box[:, -2:]))
        }
        rows = {"t": slice(0, top), "m": slice(top, top + height), "b": slice(top + height, None)}
        columns = {"l": slice(0, left), "m": slice(left, left + width), "r": slice(left + width, None)}
        for row, at_rows in rows.items():
            for column, at_columns in columns.items():
                if free.get(row, True) and free.get(column, True):
                    known[at_rows, at_columns] = 255
        self.known[n] = torch.from_numpy(known)
        edge = both & ~(np.roll(both, 1, 0) & np.roll(both, -1, 0) & np.roll(both, 1, 1) & np.roll(both, -1, 1))
        self.hulls[n] = np.asarray(np.argwhere(edge)[:, ::-1] - MIDDLE, np.float64)


def pool(pictures: list[Bytes], lungs: list[Bools | None], chest: NDArray[np.bool_]) -> Pool:
    """Place pictures and masks."""
    placed = [onto_base(p) for p in pictures]
    boxes = np.array([b for _, b in placed], np.float64)
    out = Pool(
        torch.from_numpy(np.stack([p for p, _ in placed])),
        torch.zeros((len(placed), 2, BASE, BASE), dtype=torch.uint8),
        torch.from_numpy(np.where(chest, 0, 255).astype(np.uint8))[:, None, None].expand(-1, BASE, BASE).clone(),
        boxes, chest, [None] * len(placed),
    )  # fmt: skip
    for n, mask in enumerate(lungs):
        if mask is not None:
            out.give_lungs(n, mask)
    return out


@dataclass(slots=True, eq=False)
class Views:
    """A batch: what the network sees, and what it should say.

    Parameters
    ----------
    canvas : tensor, [n, 2, SIDE, SIDE]
    orientation : tensor, [n] int64
        Turned by (index mod 4) quarter turns counter-clockwise, after mirroring if the index is 4 or more.
    inverted, chest, tilt : tensor, [n]
        The tilt in degrees, clockwise.
    judged : tensor, [n] bool
        Whether `chest` is certain.
    lungs, known : tensor, [n, 2, SIDE / 2, SIDE / 2], [n, 1, SIDE / 2, SIDE / 2]
    """

    canvas: torch.Tensor
    orientation: torch.Tensor
    inverted: torch.Tensor
    chest: torch.Tensor
    judged: torch.Tensor
    tilt: torch.Tensor
    lungs: torch.Tensor
    known: torch.Tensor


def turned(orientation: int) -> Array:
    """Return the matrix from (x, y) of the shown picture to those of the upright one, both from the middle."""
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    out = np.linalg.matrix_power(quarter, orientation % 4)
    return np.diag([-1.0, 1.0]) @ out if orientation >= 4 else out


def rotation(clockwise_deg: float) -> Array:
    """Return the matrix from (x, y) of the tilted picture to those of the straight one."""
    a = np.deg2rad(clockwise_deg)
    return np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


def take(source: Pool, which: NDArray[np.int64], rng: np.random.Generator) -> Views:
    """Take one random view of each picture named."""
    n = len(which)
    chest = source.chest[which]
    kind = rng.random(n)  # that it is mirrored is the hardest to see, and seen best upright
    orientation = np.where(kind < 0.4, 0, np.where(kind < 0.7, 4, rng.integers(0, 8, n)))
    tilt = np.where(rng.random(n) < 0.3, rng.normal(0, 3, n), rng.uniform(-20, 20, n)) * (rng.random(n) < 0.65)
    matrices, rects = np.zeros((n, 2, 3)), np.zeros((n, 2))
    for i, k in enumerate(which):
        straight = rotation(tilt[i])
        low, high = _rectangle(source, int(k), straight, rng)
        scale = (high - low).max() / INNER
        turn = turned(int(orientation[i]))
        # from the canvas that the network sees to the canvas of the source
        matrices[i, :, :2] = straight @ turn * scale
        matrices[i, :, 2] = straight @ ((low + high) / 2)
        rects[i] = np.abs(np.linalg.inv(turn)) @ ((high - low) / scale)
    inverted = rng.random(n) < 0.2
    index = torch.from_numpy(which)
    grid = _grid(matrices, SIDE)
    picture = _warped(source.pictures[index][:, None], grid)
    box = (
        torch.from_numpy(source.boxes[which]).float()[:, :, None, None] / (BASE / 2)
        - torch.tensor([1.0, 1.0, 0, 0])[:, None, None]
    )
    x, y = grid[..., 0], grid[..., 1]
    inside = ((x >= box[:, 1]) & (x < box[:, 1] + box[:, 3]) & (y >= box[:, 0]) & (y < box[:, 0] + box[:, 2]))[:, None]
    at = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    half = torch.from_numpy(rects).float() / 2
    valid = ((at[None, :, None].abs() <= half[:, 1, None, None]) & (at[None, None].abs() <= half[:, 0, None, None]))[
        :, None
    ].float()
    coarse = _grid(matrices, SIDE // 2)
    lungs = _warped(source.lungs[index], coarse)
    known = (_warped(source.known[index][:, None], coarse) > 0.99).float()
    upright = torch.from_numpy((orientation % 4 == 0) | ~chest)
    lungs = torch.where(
        torch.from_numpy(orientation >= 4)[:, None, None, None], lungs.flip(1), lungs
    )  # left and right of the canvas
    known = known * upright[:, None, None, None]
    # a canvas without any picture of lungs is no picture of a chest
    whole = (source.lungs[index][:, :, ::4, ::4] > 127).sum(dim=(1, 2, 3)) * 8.0
    scale2 = torch.from_numpy(np.abs(np.linalg.det(matrices[:, :, :2]))).float()
    shown = functional.interpolate(valid, scale_factor=0.5)
    share = (lungs * shown).mean(dim=(1, 2, 3)) * SIDE**2 * scale2 / whole.clamp(min=1)
    has = whole > 1
    is_chest = torch.from_numpy(chest) & ~(has & (share < 0.1))
    judged = ~(torch.from_numpy(chest) & has & (share >= 0.1) & (share < 0.5))
    grey = _greys(picture, inside, valid, rng)
    grey = torch.where(torch.from_numpy(inverted)[:, None, None, None], 1 - grey, grey)
    grey = _painted(grey, half, rng)
    return Views(
        torch.cat([standardised(grey, valid), valid], 1), torch.from_numpy(orientation), torch.from_numpy(inverted).float(),
        is_chest.float(), judged, torch.from_numpy(tilt).float(), lungs, known,
    )  # fmt: skip


def standardised(grey: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return grey values with mean 0 and spread 1 over the picture, 0 beside it."""
    count = valid.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = (grey * valid).sum(dim=(2, 3), keepdim=True) / count
    spread = (((grey - mean) ** 2 * valid).sum(dim=(2, 3), keepdim=True) / count).sqrt()
    return (grey - mean) / (spread + 1e-3) * valid


def _rectangle(source: Pool, k: int, straight: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the corners (x, y) of what is shown of picture `k`, in the tilted frame, from the middle."""
    height, width = source.boxes[k, 2:]
    half = np.array([width, height]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ straight  # rows times the inverse's transpose
    low, high = corners.min(0), corners.max(0)
    if rng.random() < 0.75:  # the largest upright rectangle of this shape that holds no corner of nothing
        shrink = min(1.0, float((half / (np.abs(straight) @ half)).min()))
        low, high = -half * shrink, half * shrink
    hull = source.hulls[k]
    if not source.chest[k] or rng.random() < 0.05:  # a part at any place
        size = (high - low) * rng.uniform(0.25 if source.chest[k] else 0.5, 1.0)
        at = low + rng.random(2) * (high - low - size)
        return at, at + size
    if rng.random() < 0.35:
        return low, high
    span = high - low
    ends_low, ends_high = low + 0.08 * span, high - 0.08 * span
    if hull is not None:
        turned_hull = hull @ straight  # the inverse of a rotation, applied to rows
        ends_low, ends_high = turned_hull.min(0), turned_hull.max(0)
    out_low, out_high = low.copy(), high.copy()
    for axis in (0, 1):
        if rng.random() < 0.45:
            out_low[axis] = max(low[axis], ends_low[axis] + rng.uniform(-0.10, 0.12) * span[axis])
        if rng.random() < 0.45:
            out_high[axis] = min(high[axis], ends_high[axis] - rng.uniform(-0.10, 0.12) * span[axis])
    if (out_high - out_low < 0.4 * span).any():
        return low, high
    return out_low, out_high


def _grid(matrices: Array, side: int) -> torch.Tensor:
    """Return where each pixel of a canvas of `side` pixels lies on the source's canvas, as `grid_sample` wants it."""
    theta = torch.from_numpy(matrices.astype(np.float32))
    theta = torch.cat([theta[:, :, :2] * (SIDE / BASE), theta[:, :, 2:] / (BASE / 2)], dim=2)
    return functional.affine_grid(theta, [len(theta), 1, side, side], align_corners=False)


def _warped(pictures: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return functional.grid_sample(pictures.float() / 255, grid, align_corners=False)


def _greys(picture: torch.Tensor, inside: torch.Tensor, valid: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change contrast, sharpness and noise; fill what the source does not hold."""
    n = len(picture)

    def some(low: float, high: float, often: float = 1.0, otherwise: float = 0.0) -> torch.Tensor:
        drawn = np.where(rng.random(n) < often, rng.uniform(low, high, n), otherwise)
        return torch.from_numpy(drawn).float()[:, None, None, None]

    soft = functional.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
    wide = functional.interpolate(
        functional.avg_pool2d(functional.avg_pool2d(picture, 8), 3, 1, 1, count_include_pad=False),
        size=picture.shape[2:],
        mode="bilinear",
    )
    out = picture + some(-1.0, 1.5, 0.35) * (picture - soft) + some(-0.4, 1.5, 0.35) * (picture - wide)
    low, high = some(-0.1, 0.2, 0.6), some(0.75, 1.15, 0.6, 1.0)
    out = ((out - low) / (high - low)).clamp(0, 1)
    out = out ** torch.exp(some(-0.8, 0.8, 0.7))
    noise = torch.from_numpy(rng.standard_normal(picture.shape, dtype=np.float32))
    out = (out + some(0, 0.07, 0.4) * noise).clamp(0, 1)
    fill = some(0, 1, 0.4) + some(0, 0.5, 0.3) * noise.abs()
    return torch.where(inside, out, fill.expand_as(out)) * (valid > 0)


def _painted(grey: torch.Tensor, half: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Put markers, letters, strips of a collimator and wires anywhere."""
    for i in range(len(grey)):
        picture = grey[i, 0]
        wide, high = (float(v) for v in half[i])
        left, top = round(SIDE / 2 - wide), round(SIDE / 2 - high)
        for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.6 else 0):
            rows, columns = int(rng.integers(3, 14)), int(rng.integers(3, 22))
            r = top + int(rng.random() * max(2 * high - rows, 1))
            c = left + int(rng.random() * max(2 * wide - columns, 1))
            mark = torch.full((rows, columns), float(rng.choice([0.0, 1.0, rng.random()])))
            if rng.random() < 0.5:
                mark[torch.from_numpy(rng.random((rows, columns)) < 0.5)] = float(rng.random())
            region = picture[r : r + rows, c : c + columns]
            region.copy_(mark[: region.shape[0], : region.shape[1]])
        if rng.random() < 0.2:
            value = float(rng.choice([0.0, 1.0, rng.random()]))
            for border in range(4):
                deep = int(rng.integers(1, 9))
                if rng.random() < 0.4:
                    strip = [picture[top : top + deep], picture[round(top + 2 * high) - deep :], picture[:, left : left + deep],
                             picture[:, round(left + 2 * wide) - deep :]][border]  # fmt: skip
                    strip.fill_(value)
    return grey
