"""The exception tree of `pipeline`.

- PipelineError
    - NotAnalysed        worked as designed, but this study cannot or need not be judged
    - PipelineFailed     something that should have worked did not
"""

from dicom_io.reason import Reason


class PipelineError(Exception):
    """A pipeline ended without a result; `reason` says why, `retryable` whether the same call may succeed later."""

    def __init__(self, reason: Reason, *, retryable: bool = False) -> None:
        super().__init__(f"{reason.code}: {reason.text['en']}")
        self.reason = reason
        self.retryable = retryable


class NotAnalysed(PipelineError):  # noqa: N818 - an outcome, not an error
    """The study cannot (class ``unable``) or need not (class ``not_applicable``) be judged."""


class PipelineFailed(PipelineError):  # noqa: N818 - an outcome of the contract
    """Something that should have worked did not."""
