"""Frozen options of the pipelines; no torch here."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, slots=True)
class ChestCtOptions:
    """``[pipeline.chest_ct]``: what a site may choose; thresholds are not options but data of the pipeline.

    `indication` is why chests are imaged here: only ``suspected-viral-pneumonia`` lets CO-RADS and RSNA consensus categories be
    suggested, which mean nothing without that suspicion.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    indication: Literal["none", "suspected-viral-pneumonia"] = "none"

    @property
    def digest(self) -> str:
        """Digest, as ``sha256:...``, of everything here."""
        return "sha256:" + hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CtQualityOptions:
    """``[pipeline.ct_quality]``: what a site may choose; `limits` as of `CxrQualityOptions`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    limits: Path | None = None


@dataclass(frozen=True, slots=True)
class CxrQualityOptions:
    """``[pipeline.cxr_quality]``: what a site may choose.

    `limits` names a file of the site's own limits, see ``pipeline/quality/limits.py``; its content is part of every
    result's identity.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    limits: Path | None = None
