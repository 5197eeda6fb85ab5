"""``pacs-ai-node status``: what the node is doing now."""

from pathlib import Path

import click

from node.cli import installed_version
from node.cli._node import opened
from node.cli.common import common_options, print_json, settings_of


@click.command(name="status")
@common_options
def command(config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Say what the node is doing now."""
    from node.show import status

    del verbose
    settings = settings_of(config_file)
    with opened(settings) as (db, folder):
        document = status(db, folder, installed_version(), settings)
    if as_json:
        print_json(document)
    elif not quiet:
        roles = ", ".join(f"{p['role']} {p['pid']}" for p in document["processes"]) or "not running"
        click.echo(f"processes     {roles}")
        for key in ("associations", "studies", "jobs", "deliveries", "quarantine"):
            value = document[key]
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            click.echo(f"{key:13} {text}")
        click.echo(f"disk          {document['disk']['free_bytes'] / 1e9:.1f} GB free")
        click.echo("idle" if document["idle"] else "busy")
    return 0
