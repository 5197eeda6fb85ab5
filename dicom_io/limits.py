"""The thresholds of this package, read once from ``limits.toml``."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one file may cost; see ``limits.toml`` for each."""

    element_bytes: int
    meta_bytes: int
    inflated_bytes: int
    image_bytes: int
    frames: int
    items: int
    depth: int
    pdu_bytes: int
    message_bytes: int
    command_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What one zip file may cost on disk."""

    entries: int
    directory_bytes: int
    entry_bytes: int
    total_bytes: int
    compression_ratio: float


@dataclass(frozen=True, slots=True)
class StackLimits:
    """When slices are one stack, and when they are evenly spaced; see ``limits.toml`` for each."""

    gap_ratio: float
    duplicate_ratio: float
    repeated_share: float
    uneven_ratio: float
    rounding_mm: float
    orientation_deg: float
    pixel_spacing_ratio: float
    drift_pixels: float
    plane_cosine: float


@dataclass(frozen=True, slots=True)
class VolumeLimits:
    """Which CT values are no tissue; Hounsfield units."""

    air_hu: float
    outside_hu: float
    padding_below_hu: float
    padding_above_hu: float


@dataclass(frozen=True, slots=True)
class Limits:
    """All thresholds of `dicom_io`."""

    read: ReadLimits
    archive: ArchiveLimits
    stack: StackLimits
    volume: VolumeLimits


def _load() -> Limits:
    rows = tomllib.loads(files("dicom_io").joinpath("limits.toml").read_text(encoding="utf-8"))
    return Limits(
        read=ReadLimits(**rows["read"]),
        archive=ArchiveLimits(**rows["archive"]),
        stack=StackLimits(**rows["stack"]),
        volume=VolumeLimits(**rows["volume"]),
    )


LIMITS: Final = _load()
