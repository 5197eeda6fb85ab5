"""The thresholds of this pipeline and the digest of everything that decides its result."""

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

DATA_FILES = ("parameters.toml", "quality.toml", "series_rules.toml", "texts.toml")


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
    """Return ``sha256:`` and the digest of the data files, each preceded by its name and length."""
    total = hashlib.sha256()
    for name in DATA_FILES:
        content = files("pipeline.chest_ct").joinpath(name).read_bytes()
        total.update(f"{name} {len(content)}\n".encode() + content)
    return "sha256:" + total.hexdigest()
