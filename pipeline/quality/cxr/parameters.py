"""How this pipeline looks, and the digest of everything that decides its result."""

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

_PACKAGE = "pipeline.quality.cxr"
_ENDINGS = (".py", ".toml", ".safetensors", ".npz")


@cache
def parameters() -> dict[str, Any]:
    """Return ``parameters.toml``: table name to its values."""
    return tomllib.loads(files(_PACKAGE).joinpath("parameters.toml").read_text(encoding="utf-8"))


@cache
def data_digest() -> str:
    """Return ``sha256:`` and the digest of every code, data and weight file of this pipeline, each after its name and length."""
    own = [part for part in files(_PACKAGE).iterdir() if part.name.endswith(_ENDINGS)]
    shared = [
        *(files("pipeline.quality").joinpath(name) for name in ("grade.py", "limits.py", "summary.py", "texts.toml")),
        files("pipeline").joinpath("reasons.toml"),
    ]
    total = hashlib.sha256()
    for part in [*sorted(own, key=lambda p: p.name), *shared]:
        content = part.read_bytes()
        total.update(f"{part.name} {len(content)}\n".encode() + content)
    return "sha256:" + total.hexdigest()
