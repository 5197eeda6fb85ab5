"""What every command shares: options, configuration, JSON on stdout and errors a person can act on."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from config import Settings

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file (TOML)."),
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Errors only."),
    click.option("-v", "--verbose", is_flag=True, help="More on stderr."),
)


def common_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``--config``, ``--json``, ``-q`` and ``-v`` to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings_of(config_file: Path | None) -> "Settings":
    """Load the configuration.

    Raises
    ------
    click.UsageError
        If it cannot be used (exit code 2).
    """
    from config import ConfigError, load
    from node.failpoint import FailpointError, armed

    try:
        armed()
        settings = load(config_file, os.environ)
        _check_limits(settings)
    except (ConfigError, FailpointError) as error:
        raise click.UsageError(str(error)) from error
    return settings


def _check_limits(settings: "Settings") -> None:
    """Read the limits of the site, where it has some: a file that does not fit stops whatever was to begin."""
    from config import ConfigError

    for name, options in ((f.name, getattr(settings.pipeline, f.name)) for f in fields(settings.pipeline)):
        file = getattr(options, "limits", None)
        if file is None:
            continue
        from pipeline.quality.limits import Limits, LimitsError  # who has no such file need not wait for it

        try:
            Limits.read(name, file)
        except LimitsError as error:
            if error.key:
                raise ConfigError(str(file), error.key, error.value, error.allowed) from error
            raise ConfigError(f"pipeline.{name}.limits", "", str(file), error.allowed) from error


def log_level(*, quiet: bool, verbose: bool) -> int:
    """Return the level that ``-q`` and ``-v`` ask for."""
    return logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=1))
