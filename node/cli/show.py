"""``pacs-ai-node show``: everything about one study."""

import time
from pathlib import Path

import click

from node.cli import installed_version
from node.cli._node import opened, say_if_still, study_named, unknown_study
from node.cli.common import common_options, print_json, settings_of


@click.command(name="show")
@click.argument("study")
@common_options
def command(study: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Say what came of STUDY, where its results are, and how: a study UID, an accession number or the hash seen in a log.

    Times are local; --json has them in UTC. -v adds why every rule fired or did not.
    """
    from node.cli._study import tell
    from node.cli._words import words
    from node.facts import waiting_for
    from node.show import show

    settings = settings_of(config_file)
    with opened(settings) as (db, folder):
        found = study_named(db, study)
        if found is None:
            return unknown_study(settings, as_json=as_json)
        waiting = waiting_for(db, folder, settings, found, time.time())
        wants = {d.name: d.wants for d in settings.destination if d.kind != "webhook"}
        document = show(db, found, installed_version(), waiting, wants)
    if as_json:
        print_json(document)
    elif not quiet:
        say_if_still(folder)
        click.echo("\n".join(tell(document, words(settings), verbose=verbose)))
    return 0
