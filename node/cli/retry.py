"""``pacs-ai-node retry``: run a job again."""

import time
from pathlib import Path

import click

from node.cli._node import opened, study_named, unknown_study
from node.cli.common import common_options, print_json, settings_of


@click.command(name="retry")
@click.argument("study", required=False)
@click.option("--job", type=int, help="Number of one job, as `show` says it.")
@common_options
def command(
    study: str | None, job: int | None, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Run jobs of STUDY, or --job, that have no result again, and send failed deliveries again."""
    from node.store import operator

    del verbose
    if (study is None) == (job is None):
        raise click.UsageError("name a STUDY or a --job")
    with opened(settings_of(config_file)) as (db, _):
        found = study_named(db, study) if study is not None else None
        if study is not None and found is None:
            if as_json:
                print_json(unknown_study())
            else:
                click.echo(f"Error: {unknown_study()['error']['text']}", err=True)
            return 1
        count = operator.retry(db, time.time(), study_uid=found.uid if found else None, job_id=job)
    if as_json:
        print_json({"schema": "pacs-ai-node/retry/1", "count": count})
    elif not quiet:
        click.echo(f"{count} put back into the queue")
    return 0 if count else 3
