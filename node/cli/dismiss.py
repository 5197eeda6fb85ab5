"""``pacs-ai-node dismiss``: an alarm has been seen to."""

import time
from pathlib import Path

import click

from node.cli._node import opened, study_named
from node.cli.common import common_options, print_json, settings_of


@click.command(name="dismiss")
@click.argument("code")
@click.argument("subject", required=False)
@common_options
def command(
    code: str, subject: str | None, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """End the alarm CODE about SUBJECT (a study, or what `status` names), or about whatever it stands.

    For alarms whose cause does not end by itself and that no other command answers. An alarm about the node, a sender or a
    destination is raised again while its cause lasts; one about what once happened to a study only if that happens again.
    Exit code 3: no such alarm stands.
    """
    from node.store import alarms

    del verbose
    with opened(settings_of(config_file)) as (db, _):
        study = study_named(db, subject) if subject else None
        count = alarms.dismissed(db, code, study.uid if study else subject, time.time())
    if as_json:
        print_json({"schema": "pacs-ai-node/dismiss/1", "count": count})
    elif not quiet:
        click.echo(f"{count} dismissed")
    return 0 if count else 3
