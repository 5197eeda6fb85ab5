"""Image quality of a chest CT series: measured on coarse grids, graded by the limits in ``limits.toml``."""
