"""Writing a result, or the statement that there is none, as DICOM objects into a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from dicom_io.model import Series, Study
from dicom_io.reason import Reason
from dicom_io.volume import Volume
from pipeline.result import Result
from sr_writer.identity import AnalysisIdentity
from sr_writer.options import WriterOptions

Kind = Literal["seg", "sr", "sc", "card"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One DICOM object that was authored here.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Its name in the output folder, for example ``seg.dcm``.
    kind : Kind
        What it is.
    modality, sop_class_uid, sop_instance_uid, series_instance_uid : str
        As in the object.
    bytes : int
        Size of the file.
    digest : str
        SHA-256 (hex) of the encoded data set after the file meta information.
    """

    path: Path
    name: str
    kind: Kind
    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An object of an earlier revision that the new one follows; only reports are named in the report."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class Considered:
    """A series that was looked at for a card, and why it was or was not used."""

    series_instance_uid: str
    reason: Reason


def write_result(
    result: Result,
    volume: Volume,
    series: Series,
    identity: AnalysisIdentity,
    options: WriterOptions,
    out: Path,
    now: datetime,
    revision: int = 1,
    predecessors: Sequence[Predecessor] = (),
) -> tuple[Artifact, ...]:
    """Write ``seg.dcm`` (if there is a segment), ``sr.dcm``, ``sc.dcm`` and ``preview.png`` into `out`."""
    raise NotImplementedError


def write_card(
    reason: Reason,
    outcome: Literal["not_analysed", "failed"],
    study: Study,
    identity: AnalysisIdentity,
    options: WriterOptions,
    out: Path,
    now: datetime,
    revision: int = 1,
    predecessors: Sequence[Predecessor] = (),
    considered: Sequence[Considered] = (),
) -> tuple[Artifact, ...]:
    """Write ``card.dcm`` and ``preview.png`` into `out`: one picture that says why there is no result."""
    raise NotImplementedError
