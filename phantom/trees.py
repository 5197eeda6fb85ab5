"""Tubes: vessels, airways, ribs, and how they are drawn."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phantom.anatomy import TABLE, Anatomy, Side, lung_points
from phantom.grid import Grid
from phantom.shapes import Array


@dataclass(frozen=True, slots=True, eq=False)
class Tubes:
    """Straight pieces with round ends; `start`, `end` (n, 3) in mm, `r0`, `r1` (n,) radii at both ends."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    r0: NDArray[np.float64]
    r1: NDArray[np.float64]

    @classmethod
    def of(cls, pieces: list[tuple[NDArray[np.float64], NDArray[np.float64], float, float]]) -> "Tubes":
        """Collect (start, end, r0, r1) rows."""
        a, b, r0, r1 = zip(*pieces, strict=True)
        return cls(np.array(a, float), np.array(b, float), np.array(r0, float), np.array(r1, float))

    @classmethod
    def along(cls, points: NDArray[np.float64], radius: float | NDArray[np.float64]) -> "Tubes":
        """One tube through `points` (n, 3)."""
        r = np.broadcast_to(np.asarray(radius, float), (len(points),))
        return cls(points[:-1], points[1:], r[:-1], r[1:])

    def __add__(self, other: "Tubes") -> "Tubes":
        return Tubes(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("start", "end", "r0", "r1")))

    def widened(self, by_mm: float) -> "Tubes":
        """Return the same tubes with every radius larger by `by_mm`."""
        return Tubes(self.start, self.end, self.r0 + by_mm, self.r1 + by_mm)

    def points(self, wider_than: float) -> NDArray[np.float32]:
        """Return points (n, 3) along the tubes whose radius exceeds `wider_than` mm."""
        big = self.r0 > wider_than
        share = np.linspace(0, 1, 7)[:, None, None]
        return np.asarray((self.start[big] * (1 - share) + self.end[big] * share).reshape(-1, 3), np.float32)

    def draw(self, grid: Grid, width: float) -> Array:
        """Return the share of each sample of `grid` inside the tubes, samples being `width` mm wide.

        A tube thinner than a sample is drawn at that width with its density lowered by the ratio of the cross-sections.
        """
        out = np.zeros(grid.shape, np.float32)
        reach = np.maximum(np.maximum(self.r0, self.r1), width / 2)[:, None] + width
        boxes = grid.boxes(np.minimum(self.start, self.end) - reach, np.maximum(self.start, self.end) + reach)
        hit = (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3]) & (boxes[:, 4] < boxes[:, 5])
        for i in np.flatnonzero(hit):
            b = boxes[i]
            box = (slice(int(b[0]), int(b[1])), slice(int(b[2]), int(b[3])), slice(int(b[4]), int(b[5])))
            p, v = self.start[i], self.end[i] - self.start[i]
            dx, dy, dz = (c - np.float32(q) for c, q in zip(grid.coordinates(box), p, strict=True))
            n2 = max(float(v @ v), 1e-6)
            t = np.clip(dx * np.float32(v[0] / n2) + dy * np.float32(v[1] / n2) + dz * np.float32(v[2] / n2), 0, 1)
            ex, ey, ez = dx - t * np.float32(v[0]), dy - t * np.float32(v[1]), dz - t * np.float32(v[2])
            distance = np.sqrt(ex * ex + ey * ey + ez * ez)
            radius = np.float32(self.r0[i]) + t * np.float32(self.r1[i] - self.r0[i])
            drawn = np.maximum(radius, np.float32(width / 2))
            share = np.clip((drawn - distance) / np.float32(width) + np.float32(0.5), 0, 1)
            if min(self.r0[i], self.r1[i]) < width / 2:
                share *= (radius / drawn) ** 2
            np.maximum(out[box], share, out=out[box])
        return out


def vessels(anatomy: Anatomy, rng: np.random.Generator) -> Tubes:
    """Grow arteries and veins from each hilum.

    The lung is divided again and again by a plane through the middle of the region that a branch supplies, and each
    half gets a child branch (Wang et al. 1992; Kitaoka et al., J Appl Physiol 1999;87:2207), so that branches fill
    the lung evenly and never cross it.
    """
    table = TABLE["vessels"]
    pieces: list[tuple[NDArray[np.float64], NDArray[np.float64], float, float]] = []
    for side in (-1, 1):
        points = lung_points(anatomy, side, 6.0).astype(np.float64)
        for _ in range(table["trees"]):
            root = np.array(anatomy.hilum(side)) + rng.uniform(-7, 7, 3)
            supplied = points + rng.uniform(-3, 3, points.shape)
            todo = [(root, supplied, float(table["root_radius"] * rng.uniform(0.9, 1.1)))]
            while todo:
                start, region, radius = todo.pop()
                middle = region.mean(0)
                end = start + (middle - start) * rng.uniform(0.42, 0.62)
                points_on = [start, end]
                if radius > 1.2:  # the bend of a thinner branch would not be seen
                    points_on.insert(1, (start + end) / 2 + rng.normal(0, 0.06, 3) * np.linalg.norm(end - start))
                for a, b in pairwise(points_on):
                    pieces.append((a, b, radius, radius * 0.95))
                if radius < table["end_radius"] or len(region) < 6:
                    continue
                for half in _halves(region, end - start, rng):
                    child = radius * table["taper"] * float(rng.uniform(0.9, 1.08))
                    todo.append((end, half, child))
    return Tubes.of(pieces)


def _halves(
    region: NDArray[np.float64], along: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide a region across its longest extent at right angles to the branch."""
    centred = region - region.mean(0)
    u = along / max(float(np.linalg.norm(along)), 1e-6)
    across = centred - 0.7 * np.outer(centred @ u, u)
    axis = np.linalg.eigh(across.T @ across)[1][:, 2]
    place = across @ axis
    middle = int(len(place) * rng.uniform(0.36, 0.64))
    cut = np.partition(place, middle)[middle]
    return region[place < cut], region[place >= cut]


def airways(anatomy: Anatomy) -> Tubes:
    """Trachea, main bronchi and the first branches inside the lungs; lumen only."""
    r, top = anatomy.trachea_radius, anatomy.apex + 120
    fork = np.array([0.0, 26.0, anatomy.carina])
    out = Tubes.along(np.array([[0.0, 12.0, top], [0.0, 20.0, anatomy.apex - 10], fork]), r)
    for side in (-1, 1):
        hilum = np.array(anatomy.hilum(side))
        bronchus = r * (0.78 if side < 0 else 0.72)
        out += Tubes.along(
            np.array([fork, (fork + hilum) / 2 + [0, 1.5, 2.0], hilum]), np.array([r * 0.9, bronchus, bronchus])
        )
        for dx, dy, dz in ((16.0, -6.0, 24.0), (14.0, 14.0, -34.0), (20.0, -14.0, -20.0)):
            tip = hilum + np.array([side * dx, dy, dz])
            out += Tubes.along(np.array([hilum, tip]), np.array([bronchus * 0.62, bronchus * 0.42]))
            for turn in (-1, 1):
                far = tip + 0.8 * np.array([side * dx, dy + turn * 13.0, dz * 0.8 + turn * 5.0])
                out += Tubes.along(np.array([tip, far]), np.array([bronchus * 0.36, bronchus * 0.22]))
    return out


def ribs(anatomy: Anatomy) -> tuple[Tubes, Tubes]:
    """Ten pairs of ribs, bone and cartilage, falling forward along the chest wall."""
    bone, cartilage = [], []
    for k in range(11):
        head = anatomy.apex + 4 - 24.5 * k
        for side in (-1, 1):
            angle = np.linspace(0.26, 2.75, 30)
            fall = (26 + 7 * min(k, 5)) * (1 - np.cos(angle - 0.26)) / 2 + 6 * np.sin(angle)
            z = head - fall
            a, b, c = anatomy.wall_axes(np.asarray(z, np.float32))
            if k == 0:
                a, b = a * np.float32(0.86), b * np.float32(0.86)
            line = np.stack([side * (a + 7.5) * np.sin(angle), c + (b + 7.5) * np.cos(angle), z], -1).astype(float)
            bone.append(Tubes.along(line[:24], 5.4))
            if k < 7:
                line[23:, 2] += np.linspace(0, 10 + 4 * k, 7)
                cartilage.append(Tubes.along(line[23:], 5.2))
    total = bone[0]
    for tube in bone[1:]:
        total += tube
    soft = cartilage[0]
    for tube in cartilage[1:]:
        soft += tube
    return total, soft


def sternum(anatomy: Anatomy) -> Tubes:
    """Breast bone: three rods side by side."""
    z = np.linspace(anatomy.apex - 45, anatomy.dome_right + 35, 8)
    _, b, c = anatomy.wall_axes(np.asarray(z, np.float32))
    rods = [Tubes.along(np.stack([np.full(8, x), c - b - 9.0, z], -1).astype(float), 5.5) for x in (-11.0, 0.0, 11.0)]
    return rods[0] + rods[1] + rods[2]


def great_vessels(anatomy: Anatomy) -> Tubes:
    """Aorta, superior vena cava and pulmonary trunk."""
    c, back = anatomy.carina, anatomy.spine_y - 13
    aorta = [
        [8, -14, c - 40],
        [-10, -20, c - 10],
        [-8, -14, c + 12],
        [6, 2, c + 24],
        [19, 26, c + 22],
        [23, back, c + 5],
    ]
    aorta += [[22, back + 3, c - 60], [12, back - 2, c - 160], [8, back - 2, c - 320]]
    cava = [[-18, -8, c + 70], [-20, -5, c + 20], [-18, -6, c - 40]]
    trunk = [[10, -22, c - 30], [14, 0, c - 16], [24, 14, c - 22]]
    cross = [[14, 0, c - 18], [-8, 8, c - 20], [-26, 14, c - 22]]
    out = Tubes.along(np.array(aorta, float), 12.0)
    for line, radius in ((cava, 8.5), (trunk, 11.0), (cross, 9.0)):
        out += Tubes.along(np.array(line, float), radius)
    return out


def side_of(x: float) -> Side:
    """Return the side on which `x` lies."""
    return 1 if x > 0 else -1
