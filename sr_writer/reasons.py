"""The coded reasons of this package."""

from dicom_io.reason import ReasonTable

REASONS = ReasonTable("sr_writer")
