"""``pacs-ai-node status``: what the node is doing now."""

from pathlib import Path

import click

from node.cli import installed_version
from node.cli._node import opened
from node.cli.common import common_options, print_json, settings_of


@click.command(name="status")
@common_options
def command(config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Say whether the node runs and accepts, what waits for what, and what a person must look at.

    Times are local; --json has them in UTC.
    """
    from node.cli._node_state import tell
    from node.cli._words import words
    from node.show import status

    del verbose
    settings = settings_of(config_file)
    with opened(settings) as (db, folder):
        document = status(db, folder, installed_version(), settings)
    if as_json:
        print_json(document)
    elif not quiet:
        click.echo("\n".join(tell(document, words(settings))))
    return 0
