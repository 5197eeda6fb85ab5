"""``pacs-ai-node check-config``: what the configuration means."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.common import common_options, print_json, settings_of

if TYPE_CHECKING:
    from config import Settings


@click.command(name="check-config")
@common_options
def command(config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Read the configuration and say what it means; exit code 2 names file, key, value and what is allowed."""
    del verbose
    from node.store import place_of, shown
    from sr_writer.profiles import rows

    settings = settings_of(config_file)
    _check_files(settings)
    _check_limits(settings)
    database = settings.database.url if settings.database.url == "sqlite" else shown(place_of(settings))
    if as_json:
        document = json.loads(json.dumps(asdict(settings), default=str))
        document["database"]["url"] = database  # without a password
        print_json({"schema": "pacs-ai-node/check-config/1", "ok": True, "settings": document})
        return 0
    if quiet:
        return 0
    d = settings.dicom
    certificates = "with certificates on both sides" if d.tls and d.tls.verify == "required" else "encrypted only"
    wire = f"TLS {d.tls.minimum} and newer, {certificates}" if d.tls else "without TLS"
    click.echo(f"listens on    {d.host}:{d.port} as {', '.join(d.ae_titles)}, {wire}")
    for p in d.peer:
        shows = ", with one certificate only" if p.certificate else ""
        click.echo(f"lets in       {p.ae_title}@{p.host}{shows}: {', '.join(p.rights) or 'verification only'}")
    if not d.peer:
        click.echo("lets in       this machine only (no dicom.peer)")
    if settings.web.port is not None:
        w = settings.web
        clients = ", ".join(client.name for client in w.client) or "this machine only (no web.client)"
        click.echo(f"STOW-RS on    {w.host}:{w.port}{w.base}, {'TLS' if w.tls else 'without TLS'}, from {clients}")
    click.echo(f"data          {settings.node.data_dir.resolve()}")
    click.echo(f"database      {database}")
    for place in settings.destination:
        wire = ", TLS" if place.tls else ""
        address = place.url or f"{place.ae_title}@{place.host}:{place.port}"
        if place.kind == "webhook":
            click.echo(f"destination   {place.name}: {address}{wire}, gets a document about every job")
            continue
        click.echo(f"destination   {place.name}: {address}{wire}, profile {place.profile}")
        said = [
            f"{what} as series {number}{f' (else {otherwise})' if otherwise else ''}"
            for what, number, _, otherwise in rows(place.wants)
        ]
        click.echo(f"              gets {', '.join(said)}")
    for rule in settings.rule:
        click.echo(
            f"rule          {rule.name}: run {', '.join(rule.run) or 'nothing'}, send to {', '.join(rule.send_to) or 'nobody'} ({rule.mode})"
        )
    if not settings.rule:
        click.echo("rule          none: studies are received and nothing is run; add a [[rule]]")
    return 0


def _check_limits(settings: "Settings") -> None:
    """Say which limits of the site nobody has reviewed."""
    from pipeline import registry
    from pipeline.quality.limits import Limits

    for name in registry.graded():
        file = getattr(settings.pipeline, name).limits
        if file is not None and not Limits.read(name, file).reviewed:
            says = "`reviewed_by` is empty: let a person look at every line, and put a name there"
            click.echo(f"Warning: {file}: {says}", err=True)


def _check_files(settings: "Settings") -> None:
    """Look into the files of TLS: those that cannot be used are an error, those that soon cannot are told."""
    from dicom_io.tls_check import complaints
    from node.certificates import named

    for place, tls in named(settings):
        for _, reason in complaints(tls, datetime.now(UTC)):
            text = f"{place}: {reason.text['en']} {reason.hint['en']}"
            if reason.code.startswith("tls-"):
                raise click.UsageError(text)
            click.echo(f"Warning: {text}", err=True)
