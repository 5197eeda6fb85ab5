"""What is said of a job: one entry of ``jobs`` in the documents of `process` and `show`."""

from collections.abc import Mapping
from typing import Any

from dicom_io.reason import Reason

BLANK: Mapping[str, Any] = {
    "pipeline": None, "subject": "study", "pipeline_version": None, "pipeline_digest": None, "weights_digest": None,
    "input_digest": None, "device": None, "device_of_origin": None, "outcome": None, "reason": None, "series_instance_uid": None,
    "series_considered": [], "quality": None,
    "measurements": [], "findings": [], "artifacts": [], "notes": [], "suggestions": [], "timings_s": {}, "withheld": None,
}  # fmt: skip
"""Every field, empty."""


def unfit(pipeline: str | None, reason: Reason, subject: str = "study") -> dict[str, Any]:
    """Return the job object of a pipeline that cannot be loaded here, or (None) of a study that no pipeline fits."""
    return {**BLANK, "pipeline": pipeline, "subject": subject, "outcome": "not_analysed", "reason": reason.as_json()}
