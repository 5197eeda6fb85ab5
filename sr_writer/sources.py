"""The source instances as writers see them: raw where bytes matter, normalised on demand."""

from collections.abc import Iterable, Mapping
from functools import cached_property

from pydicom.dataset import Dataset
from pydicom.valuerep import DSdecimal, DSfloat

from dicom_io.frames import header_of, images_of
from dicom_io.model import ImageKey, Instance
from dicom_io.normalise import Normalised, normalise


class Sources:
    """The instances that were used, by SOP Instance UID, and the images that they hold.

    Normalising a header costs more than everything else that is written about a slice, and only the first slice and the
    key slices need it.

    Parameters
    ----------
    instances : Iterable[Instance]
        Not empty.
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = {i.sop_instance_uid: i for i in instances}
        self._normalised: dict[ImageKey, Dataset] = {}

    @cached_property
    def images(self) -> Mapping[ImageKey, Instance]:
        """Every image: the instances, of enhanced CT the frames."""
        return {image.key: image for i in self.instances.values() for image in images_of(i)}

    @cached_property
    def first(self) -> Normalised:
        """The normalised header of the first image, for what is the same in all."""
        return normalise(header_of(next(iter(self.instances.values()))))

    def header(self, key: ImageKey) -> Dataset:
        """Return the normalised header of one image."""
        if key not in self._normalised:
            self._normalised[key] = normalise(self.images[key].header).header
        return self._normalised[key]

    def position(self, key: ImageKey) -> list[DSfloat | DSdecimal]:
        """Return Image Position (Patient) as the source writes it; text too long for DS is rounded to fit."""
        values = self.images[key].header.ImagePositionPatient
        return [v if len(str(v)) <= 16 else DSfloat(float(v), auto_format=True) for v in values]
