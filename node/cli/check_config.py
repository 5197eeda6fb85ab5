"""``pacs-ai-node check-config``: what the configuration means."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from node.cli.common import common_options, print_json, settings_of


@click.command(name="check-config")
@common_options
def command(config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Read the configuration and say what it means; exit code 2 names file, key, value and what is allowed."""
    del verbose
    from node.store import place_of, shown

    settings = settings_of(config_file)
    database = settings.database.url if settings.database.url == "sqlite" else shown(place_of(settings))
    if as_json:
        document = json.loads(json.dumps(asdict(settings), default=str))
        document["database"]["url"] = database  # without a password
        print_json({"schema": "pacs-ai-node/check-config/1", "ok": True, "settings": document})
        return 0
    if quiet:
        return 0
    d = settings.dicom
    click.echo(f"listens on    {d.host}:{d.port} as {', '.join(d.ae_titles)}")
    peers = ", ".join(f"{p.ae_title}@{p.host}" for p in d.peer) or "this machine only (no dicom.peer)"
    click.echo(f"takes from    {peers}")
    click.echo(f"data          {settings.node.data_dir.resolve()}")
    click.echo(f"database      {database}")
    for place in settings.destination:
        click.echo(f"destination   {place.name}: {place.ae_title}@{place.host}:{place.port}, profile {place.profile}")
    for rule in settings.rule:
        click.echo(
            f"rule          {rule.name}: run {', '.join(rule.run) or 'nothing'}, send to {', '.join(rule.send_to) or 'nobody'} ({rule.mode})"
        )
    if not settings.rule:
        click.echo("rule          none: studies are received and nothing is run; add a [[rule]]")
    return 0
