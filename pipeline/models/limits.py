"""The table ``limits.toml``."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def limits() -> Mapping[str, Mapping[str, int]]:
    """Return what is taken from a model that is brought."""
    return tomllib.loads(files("pipeline.models").joinpath("limits.toml").read_text(encoding="utf-8"))
