"""How objects are written: frozen options with a digest."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from dicom_io.reason import LANGUAGES
from sr_writer.device import SOFTWARE_VERSION
from sr_writer.profiles import Shipped, profile


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How results are written.

    Parameters
    ----------
    profile : Shipped
        Which of the profiles of ``profiles.toml`` is written where no destination says so: by `process`, and by the node
        for what is sent nowhere. It changes which objects are written, not the bytes of any.
    languages : tuple[str, ...]
        Languages of free text; the first is the document's.
    research : bool
        Mark everything as research (Content Qualification (0018,9004), series descriptions).
    """

    profile: Shipped = "ohif"
    languages: tuple[str, ...] = LANGUAGES
    research: bool = True

    def __post_init__(self) -> None:
        profile(self.profile)
        if (
            not self.languages
            or not set(self.languages) <= set(LANGUAGES)
            or len(set(self.languages)) < len(self.languages)
        ):
            raise ValueError(f"languages {self.languages!r}: one or more of {', '.join(LANGUAGES)}, each once")

    @property
    def digest(self) -> str:
        """Digest, as ``sha256:...``, of everything here that changes bytes: the options, and the writer's code and tables."""
        options = {key: value for key, value in asdict(self).items() if key != "profile"}
        fields = json.dumps({"options": options, "software": SOFTWARE_VERSION}, sort_keys=True)
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
