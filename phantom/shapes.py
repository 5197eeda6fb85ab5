"""Implicit shapes: signed distances in millimetres, positive inside, on broadcastable coordinate arrays."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Coordinates and distances, float32 unless a single point asks for more."""
Coordinates = tuple[Array, Array, Array]
"""X, Y, Z in LPS millimetres; shapes broadcast to the grid's [z, y, x]."""


def ellipsoid(at: Coordinates, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    """Distance to an ellipsoid, exact for a sphere and first-order right at the surface of any other."""
    k0 = k1 = np.zeros((), np.float32)
    for x, c, r in zip(at, centre, radii, strict=True):
        u = (x - np.float32(c)) / np.float32(r)
        k0 = k0 + u * u
        u = u / np.float32(r)
        k1 = k1 + u * u
    k0 = np.sqrt(k0)
    return cast("Array", k0 * (1 - k0) / np.sqrt(k1 + np.float32(1e-12)))


def ellipse(x: Array, y: Array, a: Array | float, b: Array | float) -> Array:
    """Distance to an upright cylinder of half-widths `a` and `b` about the origin of `x`, `y`."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    u, v = x / a, y / b
    k0 = np.sqrt(u * u + v * v)
    u, v = u / a, v / b
    return cast("Array", k0 * (1 - k0) / np.sqrt(u * u + v * v + np.float32(1e-12)))


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Intersection of two shapes with the edge rounded over `k` mm (I. Quilez's quadratic smooth minimum)."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0)
    return cast("Array", np.minimum(a, b) - h * h * np.float32(0.25 / k))


def occupancy(distance: Array, width: float) -> Array:
    """Share of a sample of `width` mm that lies inside: one half exactly at the surface."""
    return cast("Array", np.clip(distance * np.float32(1.0 / width) + np.float32(0.5), 0, 1))


def blend(target: Array, share: Array, value: Array | float) -> None:
    """Replace `share` of `target` by `value`, in place."""
    target += share * (value - target)


def step(x: Array) -> Array:
    """Logistic step from 0 to 1."""
    return cast("Array", 1 / (1 + np.exp(-np.clip(x, -30, 30))))
