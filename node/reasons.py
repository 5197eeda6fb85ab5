"""The node's own reasons."""

from dicom_io.reason import ReasonTable

REASONS = ReasonTable("node")
