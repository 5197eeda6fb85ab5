"""What every command shares: options, configuration, JSON on stdout and errors a person can act on."""

import json
import logging
import os
from collections.abc import Callable, Mapping
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
        return load(config_file, os.environ)
    except (ConfigError, FailpointError) as error:
        raise click.UsageError(str(error)) from error


def log_level(*, quiet: bool, verbose: bool) -> int:
    """Return the level that ``-q`` and ``-v`` ask for."""
    return logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=1))
