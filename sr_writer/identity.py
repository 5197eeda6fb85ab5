"""Who made an object, from what: UIDs that follow from the inputs, and the mark by which the node knows its own work.

The same inputs, software, weights and options give the same UIDs in one installation; anything else gives others. So a
repeated analysis is the same object to a PACS, and two different objects never share a UID.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_io.model import Instance
from sr_writer.device import contributing_device_uids


@dataclass(frozen=True, slots=True)
class AnalysisIdentity:
    """Everything that decides the UIDs of one analysis.

    Parameters
    ----------
    installation_id : str
        Random identifier made once for this installation.
    study_instance_uid : str
        The source study.
    inputs : tuple[tuple[str, str], ...]
        (SOP Instance UID, data-set digest) of the instances actually used; kept sorted.
    pipeline, version : str
        Which pipeline worked.
    weights_digest : str
        Digest of the weights and data files that decide its results.
    options_digest : str
        Digest of the pipeline's and the writer's options together, see `combined_digest`.
    """

    installation_id: str
    study_instance_uid: str
    inputs: tuple[tuple[str, str], ...]
    pipeline: str
    version: str
    weights_digest: str
    options_digest: str

    def __post_init__(self) -> None:
        if not self.installation_id:
            raise ValueError("analysis identity: no installation id")
        object.__setattr__(self, "inputs", tuple(sorted(self.inputs)))

    @classmethod
    def of(
        cls, *, installation_id: str, study_instance_uid: str, instances: Iterable[Instance], pipeline: str, version: str,
        weights_digest: str, options_digests: Iterable[str],
    ) -> "AnalysisIdentity":  # fmt: skip
        """Build the identity of an analysis of `instances` (order does not matter)."""
        inputs = tuple((i.sop_instance_uid, i.digest) for i in instances)
        options = combined_digest(*options_digests)
        return cls(installation_id, study_instance_uid, inputs, pipeline, version, weights_digest, options)

    def uid(self, kind: str, ordinal: int = 0, variant: str = "") -> str:
        """Return the UID of the `ordinal`-th thing of `kind` in the encoding `variant`.

        A ``2.25.`` UID (PS3.5 annex B.2) over the first 128 bits of SHA-256 of the length-prefixed fields.
        """
        flat = [field for pair in self.inputs for field in pair]
        return _uid(
            "object", self.installation_id, self.study_instance_uid, str(len(self.inputs)), *flat, self.pipeline,
            self.version, self.weights_digest, self.options_digest, kind, str(ordinal), variant,
        )  # fmt: skip

    def tracking_uid(self, tracking_id: str) -> str:
        """Return the Tracking UID of the thing that this analysis calls `tracking_id`."""
        return self.uid(f"tracking {tracking_id}")

    @property
    def device_uid(self) -> str:
        """Device UID of the algorithm."""
        return device_uid(self.installation_id, self.pipeline, self.version, self.weights_digest)

    @property
    def input_digest(self) -> str:
        """Digest of the inputs actually used, as ``sha256:...``."""
        flat = [field for pair in self.inputs for field in pair]
        return "sha256:" + _hash("input", *flat).hexdigest()

    @property
    def pipeline_digest(self) -> str:
        """Digest of pipeline, version, weights and options, as ``sha256:...``."""
        fields = (self.pipeline, self.version, self.weights_digest, self.options_digest)
        return "sha256:" + _hash("pipeline", *fields).hexdigest()


def device_uid(installation_id: str, pipeline: str, version: str, weights_digest: str) -> str:
    """Return the Device UID (0018,1002) of one algorithm build; another one after each retraining."""
    return _uid("device", installation_id, pipeline, version, weights_digest)


def installation_uid(installation_id: str) -> str:
    """Return the Device UID (0018,1002) of this installation, the same in everything it authors."""
    return _uid("installation", installation_id)


def combined_digest(*digests: str) -> str:
    """Return one digest, as ``sha256:...``, over several; their order matters."""
    return "sha256:" + _hash("digests", *digests).hexdigest()


def authored_by(header: Dataset, installation_id: str) -> bool:
    """Say whether this installation authored an object, by its Contributing Equipment Sequence (0018,A001).

    Parameters
    ----------
    header : Dataset
        Any instance's header, as received; odd or missing items are no match.
    installation_id : str
        Of this installation.
    """
    return installation_uid(installation_id) in contributing_device_uids(header)


def _hash(*fields: str) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for field in fields:
        data = field.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest


def _uid(*fields: str) -> str:
    return f"2.25.{int.from_bytes(_hash(*fields).digest()[:16], 'big')}"
