"""How objects are written: frozen options with a digest."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from dicom_io.reason import LANGUAGES
from sr_writer.device import SOFTWARE_VERSION

Profile = Literal["ohif"]
"""Sets of encodings that a kind of viewer is known to show; ``ohif``: SEG BINARY uncompressed, SR with SCOORD outlines,
SC summary."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How results are written.

    Parameters
    ----------
    profile : Profile
        Which kind of viewer the objects must please.
    languages : tuple[str, ...]
        Languages of free text; the first is the document's.
    omit_empty_frames : bool
        Leave out the slices that a segment does not touch; False for viewers that shift overlays otherwise.
    research : bool
        Mark everything as research (Content Qualification (0018,9004), series descriptions).
    """

    profile: Profile = "ohif"
    languages: tuple[str, ...] = LANGUAGES
    omit_empty_frames: bool = True
    research: bool = True

    def __post_init__(self) -> None:
        if self.profile not in get_args(Profile):
            raise ValueError(f"profile {self.profile!r} is none of {', '.join(get_args(Profile))}")
        if (
            not self.languages
            or not set(self.languages) <= set(LANGUAGES)
            or len(set(self.languages)) < len(self.languages)
        ):
            raise ValueError(f"languages {self.languages!r}: one or more of {', '.join(LANGUAGES)}, each once")

    @property
    def digest(self) -> str:
        """Digest, as ``sha256:...``, of everything here that changes bytes: the options, and the writer's code and tables."""
        fields = json.dumps({"options": asdict(self), "software": SOFTWARE_VERSION}, sort_keys=True)
        return "sha256:" + hashlib.sha256(fields.encode() + _writer()).hexdigest()


@cache
def _writer() -> bytes:
    """Digest of every code and data file of this package: changed code must not speak under the UIDs of the old."""
    parts = [part for part in files("sr_writer").iterdir() if part.name.endswith((".py", ".toml"))]
    total = hashlib.sha256()
    for part in sorted(parts, key=lambda p: p.name):
        content = part.read_bytes()
        total.update(f"{part.name} {len(content)}\n".encode() + content)
    return total.digest()
