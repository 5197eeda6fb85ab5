"""The thresholds of this pipeline and the digest of everything that decides its result."""

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


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
    """Return ``sha256:`` and the digest of every code and data file of this pipeline, each after its name and length.

    There are no weights: the code is what decides, and changed code must not speak under the UIDs of the old.
    """
    package = files("pipeline.chest_ct")
    parts = [part for part in package.iterdir() if part.name.endswith((".py", ".toml"))]
    total = hashlib.sha256()
    for part in [*sorted(parts, key=lambda p: p.name), files("pipeline").joinpath("reasons.toml")]:
        content = part.read_bytes()
        total.update(f"{part.name} {len(content)}\n".encode() + content)
    return "sha256:" + total.hexdigest()
