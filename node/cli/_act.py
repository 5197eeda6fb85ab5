"""What the commands share that write a row for the running node to act on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli._node import opened, say_if_still, study_named, unknown_study
from node.cli.common import common_options, print_json, settings_of

if TYPE_CHECKING:
    from node.store import Database

Act = Callable[["Database", float, str | None, int | None], int]


def act_on_jobs(name: str, about: str, act: Act, done: str) -> click.Command:
    """Return the command `name` that acts on all jobs of a study or on one, and says how many it reached.

    Exit code 3: none. `act` gets the database, the time, and a study UID or the number of a job.
    """

    @click.command(name=name, help=about)
    @click.argument("study", required=False)
    @click.option("--job", type=int, help="Number of one job, as `show` says it.")
    @common_options
    def command(
        study: str | None, job: int | None, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool
    ) -> int:
        del verbose
        if (study is None) == (job is None):
            raise click.UsageError("name a STUDY or a --job")
        settings = settings_of(config_file)
        with opened(settings) as (db, folder):
            found = study_named(db, study) if study is not None else None
            if study is not None and found is None:
                return unknown_study(settings, as_json=as_json)
            count = act(db, time.time(), found.uid if found else None, job)
        if as_json:
            print_json({"schema": f"pacs-ai-node/{name}/1", "count": count})
        elif not quiet:
            say_if_still(folder)
            click.echo(f"{count} {done}")
        return 0 if count else 3

    return command
