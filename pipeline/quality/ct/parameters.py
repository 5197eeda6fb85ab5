"""How the measures are made, and the digest of everything that decides them."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pipeline.digest import digest_of

PACKAGE = "pipeline.quality.ct"
LIMITS_FILE = "limits.toml"
SHARED = (
    ("pipeline.quality", "grade.py"),
    ("pipeline.quality", "limits.py"),
    ("pipeline.chest_ct", "select.py"),
    ("pipeline.chest_ct", "series_rules.toml"),
    ("pipeline", "reasons.toml"),
)


@cache
def parameters() -> dict[str, Any]:
    """Return ``parameters.toml``: table name to its values."""
    return tomllib.loads(files(PACKAGE).joinpath("parameters.toml").read_text(encoding="utf-8"))


@cache
def data_digest() -> str:
    """Return ``sha256:`` and the digest of code and data; there are no weights."""
    return digest_of([PACKAGE], SHARED)
