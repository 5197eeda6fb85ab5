"""The outbound gate: nothing wrong leaves.

Every object is compared with the raw source files, read apart from everything that made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_io.model import Instance
from dicom_io.reason import Reason
from sr_writer.write import Artifact, Predecessor


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one object must not leave."""

    artifact: Artifact
    reason: Reason


def check(
    artifacts: Sequence[Artifact], sources: Sequence[Instance], known: Sequence[Predecessor] = ()
) -> tuple[Refusal, ...]:
    """Return a refusal for everything that is wrong with `artifacts`; empty if all may leave. Never raises for bad objects."""
    raise NotImplementedError
