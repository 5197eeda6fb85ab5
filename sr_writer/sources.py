"""The source instances as writers see them: raw where bytes matter, normalised on demand."""

from collections.abc import Iterable
from functools import cached_property

from pydicom.dataset import Dataset
from pydicom.valuerep import DSdecimal, DSfloat

from dicom_io.model import Instance
from dicom_io.normalise import Normalised, normalise


class Sources:
    """The instances that were used, by SOP Instance UID.

    Normalising a header costs more than everything else that is written about a slice, and only the first slice and the
    key slices need it.

    Parameters
    ----------
    instances : Iterable[Instance]
        Not empty.
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = {i.sop_instance_uid: i for i in instances}
        self._normalised: dict[str, Dataset] = {}

    @cached_property
    def first(self) -> Normalised:
        """The normalised header of the first instance, for what is the same in all."""
        return normalise(next(iter(self.instances.values())).header)

    def header(self, uid: str) -> Dataset:
        """Return the normalised header of one instance."""
        if uid not in self._normalised:
            self._normalised[uid] = normalise(self.instances[uid].header).header
        return self._normalised[uid]

    def position(self, uid: str) -> list[DSfloat | DSdecimal]:
        """Return Image Position (Patient) as the source writes it; text too long for DS is rounded to fit."""
        values = self.instances[uid].header.ImagePositionPatient
        return [v if len(str(v)) <= 16 else DSfloat(float(v), auto_format=True) for v in values]
