"""The pipelines' own reasons."""

from dicom_io.reason import ReasonTable

REASONS = ReasonTable("pipeline")
