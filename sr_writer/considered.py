"""What a card says about one series."""

from dataclasses import dataclass

from dicom_io.reason import Reason


@dataclass(frozen=True, slots=True)
class Considered:
    """A series that was looked at, and why it was or was not used."""

    series_instance_uid: str
    reason: Reason
