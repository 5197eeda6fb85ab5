"""The thresholds of this pipeline and the digest of everything that decides its result."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pipeline.digest import digest_of

QUALITY_FILE = "quality.toml"


@cache
def parameters() -> dict[str, Any]:
    """Return ``parameters.toml``: table name to its values."""
    return tomllib.loads(files("pipeline.chest_ct").joinpath("parameters.toml").read_text(encoding="utf-8"))


@cache
def texts() -> dict[str, Any]:
    """Return ``texts.toml``."""
    return tomllib.loads(files("pipeline.chest_ct").joinpath("texts.toml").read_text(encoding="utf-8"))


@cache
def data_digest() -> str:
    """Return ``sha256:`` and the digest of every code and data file that decides a result, the shared measures' too.

    There are no weights: the code is what decides, and changed code must not speak under the UIDs of the old.
    """
    shared = [("pipeline.quality", "grade.py"), ("pipeline", "reasons.toml")]
    return digest_of(["pipeline.chest_ct", "pipeline.quality.ct"], shared)
