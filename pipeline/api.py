"""The door every pipeline comes in through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dicom_io.model import Series, Study
from dicom_io.radiograph import Radiograph
from dicom_io.reason import Reason
from dicom_io.volume import Volume
from pipeline.result import Result

Progress = Callable[[str, float], None]
"""Called with the stage and the share of the whole work done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Considered:
    """One series and what the selection thought of it."""

    series_instance_uid: str
    chosen: bool
    reason: Reason

    def as_json(self) -> dict[str, Any]:
        """Return the contract's JSON object."""
        return {
            "series_instance_uid": self.series_instance_uid,
            "chosen": self.chosen,
            "reason": {"code": self.reason.code, "class": self.reason.klass, "text": dict(self.reason.text)},
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """What a pipeline would work on.

    Parameters
    ----------
    chosen : Series or None
        The series with exactly the instances that will be used (duplicates already dropped).
    considered : tuple[Considered, ...]
        Every candidate with its reason.
    reason : Reason or None
        Why nothing was chosen; None exactly if `chosen` is a series.
    """

    chosen: Series | None
    considered: tuple[Considered, ...]
    reason: Reason | None


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A result and the pixels that it was computed from, so that the writer need not read them again."""

    result: Result
    volume: Volume | Radiograph


class Pipeline(Protocol):
    """One AI: selects its input from headers, then works on pixels."""

    name: str
    version: str

    @property
    def weights_digest(self) -> str:
        """``sha256:`` and the digest of the weights and data files that decide the result."""
        ...

    @property
    def options_digest(self) -> str:
        """``sha256:`` and the digest of this pipeline's options."""
        ...

    def select(self, study: Study) -> Selection:
        """Choose a series by headers alone; never raises for odd input."""
        ...

    def run(self, series: Series, progress: Progress | None = None) -> Analysis:
        """Work on the chosen series.

        Raises
        ------
        NotAnalysed
            If the pixels show that the series cannot be judged.
        DicomIOError
            If the pixels cannot be read.
        """
        ...
