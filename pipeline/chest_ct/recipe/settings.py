"""The table ``recipe.toml``, with what a site's own file says instead."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any


class SettingsWrong(Exception):  # noqa: N818 - named after what it is
    """The settings name what there is not, or leave nobody on a side."""


def settings(own: Path | None = None) -> dict[str, Any]:
    """Return ``recipe.toml``, key by key replaced by those of `own`.

    Raises
    ------
    SettingsWrong
        If `own` is no TOML, has a key that is not known, or a value of another kind.
    """
    said: dict[str, Any] = tomllib.loads((files(__package__) / "recipe.toml").read_text(encoding="utf-8"))
    if own is None:
        return said
    try:
        theirs = tomllib.loads(own.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsWrong(f"{own}: {error}") from error
    return _laid_over(said, theirs, str(own))


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any], at: str) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        where = f"{at}: {key}"
        if key not in below:
            raise SettingsWrong(f"{where}: unknown key; one of {', '.join(sorted(below))}")
        kind = type(below[key])
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # noqa: PLW2901 - 1 is meant as 1.0
        if type(value) is not kind:
            raise SettingsWrong(f"{where}: {type(value).__name__} where {kind.__name__} is meant")
        out[key] = _laid_over(below[key], value, where) if isinstance(value, dict) else value
    return out


@cache
def texts() -> Mapping[str, Any]:
    """Return ``texts.toml``: what cards and people are told."""
    return tomllib.loads((files(__package__) / "texts.toml").read_text(encoding="utf-8"))
