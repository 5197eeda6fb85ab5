"""Frozen instances, series and studies: headers in memory, pixels on disk."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.dataset import Dataset


class ImageKey(NamedTuple):
    """Which image: SOP Instance UID, and the frame number from 1 where the instance holds several; else 0."""

    sop_instance_uid: str
    frame: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance on disk, or one frame of it.

    Parameters
    ----------
    path : Path
        The file as it was received; never written to.
    digest : str
        SHA-256 (hex) of the encoded data set after the file meta information.
    transfer_syntax_uid : str
        How the data set is encoded.
    header : Dataset
        Every element before the pixel data, as sent; of one frame as `dicom_io.frames` puts it. Read only by convention.
    frame, frames : int
        Which frame it is, from 1, and how many the file holds; 0 and 1 for the instance as a whole.
    """

    path: Path
    digest: str
    transfer_syntax_uid: str
    header: Dataset = field(repr=False, compare=False)
    frame: int = 0
    frames: int = 1

    def _text(self, keyword: str) -> str:
        value: Any = self.header.get(keyword)
        return "" if value is None else str(value).strip()

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D)."""
        return self._text("StudyInstanceUID")

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID (0020,000E)."""
        return self._text("SeriesInstanceUID")

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return self._text("SOPInstanceUID")

    @property
    def key(self) -> ImageKey:
        """Which image it is."""
        return ImageKey(self.sop_instance_uid, self.frame)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""
        return self._text("SOPClassUID")

    @property
    def modality(self) -> str:
        """Modality (0008,0060), upper case."""
        return self._text("Modality").upper()


@dataclass(frozen=True, slots=True)
class Series:
    """Instances that share a Series Instance UID, sorted by SOP Instance UID; never empty."""

    series_instance_uid: str
    instances: tuple[Instance, ...]

    @property
    def modality(self) -> str:
        """Modality of the first instance."""
        return self.instances[0].modality

    @property
    def header(self) -> Dataset:
        """Header of the first instance, for what is the same in all."""
        return self.instances[0].header


@dataclass(frozen=True, slots=True)
class Study:
    """Series that share a Study Instance UID, sorted by Series Instance UID; never empty."""

    study_instance_uid: str
    series: tuple[Series, ...]

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Every instance of the study, by series."""
        return tuple(i for s in self.series for i in s.instances)

    @property
    def header(self) -> Dataset:
        """Header of the first instance, for what is the same in the whole study."""
        return self.series[0].header


def group(instances: Iterable[Instance]) -> tuple[Study, ...]:
    """Sort instances into studies and series.

    Of several instances with one SOP Instance UID the first is kept: the caller decides the order and reports the rest.
    """
    tree: dict[str, dict[str, dict[str, Instance]]] = {}
    seen: set[str] = set()
    for instance in instances:
        if instance.sop_instance_uid in seen:
            continue
        seen.add(instance.sop_instance_uid)
        series = tree.setdefault(instance.study_instance_uid, {}).setdefault(instance.series_instance_uid, {})
        series[instance.sop_instance_uid] = instance
    return tuple(
        Study(uid, tuple(Series(s, tuple(rows[k] for k in sorted(rows))) for s, rows in sorted(tree[uid].items())))
        for uid in sorted(tree)
    )
