"""The device that made the images, as they say (PS3.3 section C.7.5.1)."""

from dataclasses import asdict, dataclass

from pydicom.dataset import Dataset

from dicom_io.elements import text

_LONGEST = 64


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """Manufacturer (0008,0070), Manufacturer's Model Name (0008,1090) and Station Name (0008,1010); empty if absent."""

    manufacturer: str = ""
    model: str = ""
    station: str = ""

    @classmethod
    def of(cls, header: Dataset) -> "Device":
        """Return the device of an image."""
        keywords = ("Manufacturer", "ManufacturerModelName", "StationName")
        return cls(*(" ".join(text(header, keyword).split())[:_LONGEST] for keyword in keywords))

    def as_json(self) -> dict[str, str]:
        """Return the device as the contract's JSON object."""
        return asdict(self)
