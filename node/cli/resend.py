"""``pacs-ai-node resend``: results once more."""

import time
from pathlib import Path

import click

from node.cli._node import opened, say_if_still, study_named, unknown_study
from node.cli.common import common_options, print_json, settings_of


@click.command(name="resend")
@click.argument("study")
@click.option("--dest", help="Only to this destination, even if no rule names it. Default: wherever they went.")
@common_options
def command(
    study: str, dest: str | None, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Send the standing results of STUDY again, the same objects with the same bytes."""
    from node.store import operator

    del verbose
    settings = settings_of(config_file)
    known = [d.name for d in settings.destination]
    if dest is not None and dest not in known:
        raise click.UsageError(f"no such destination: {dest}; there are: {', '.join(known) or 'none'}")
    with opened(settings) as (db, folder):
        found = study_named(db, study)
        if found is None:
            return unknown_study(settings, as_json=as_json)
        documents = [d.name for d in settings.destination if d.kind == "webhook"]
        queued = operator.resend(db, found.uid, time.time(), None if dest is None else [dest], documents)
    if as_json:
        print_json({"schema": "pacs-ai-node/resend/1", "destinations": list(queued)})
    elif not quiet:
        say_if_still(folder)
        click.echo(
            f"queued for {', '.join(queued)}" if queued else "nothing to send: this study has no standing results"
        )
    return 0 if queued else 3
