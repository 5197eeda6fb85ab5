"""The coded reasons of this package."""

from typing import Final

from dicom_io.reason import ReasonTable

REASONS: Final = ReasonTable("dicom_io")
