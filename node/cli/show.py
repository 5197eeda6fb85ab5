"""``pacs-ai-node show``: everything about one study."""

from pathlib import Path
from typing import Any

import click

from node.cli import installed_version
from node.cli._node import opened, study_named, unknown_study
from node.cli.common import common_options, print_json, settings_of


@click.command(name="show")
@click.argument("study")
@common_options
def command(study: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Show timeline, results and deliveries of STUDY: a study UID, an accession number or the hash seen in a log."""
    from node.show import show

    del verbose
    with opened(settings_of(config_file)) as (db, _):
        found = study_named(db, study)
        document = unknown_study() if found is None else show(db, found, installed_version())
    if as_json:
        print_json(document)
    elif found is None:
        click.echo(f"Error: {document['error']['text']}", err=True)
    elif not quiet:
        _tell(document)
    return 1 if found is None else 0


def _tell(document: dict[str, Any]) -> None:
    click.echo(
        f"{document['study_instance_uid']}  {document['state']}  revision {document['revision']}  {document['instances']} images"
    )
    for entry in document["timeline"]:
        rest = {k: v for k, v in entry.items() if k not in ("utc", "event", "rules") and v is not None}
        click.echo(f"  {entry['utc']}  {entry['event']:22} {' '.join(f'{k}={v}' for k, v in rest.items())}")
        for rule in entry.get("rules", ()):
            click.echo(f"      rule {rule['rule']}: {_verdict(rule)}")
    for job in document["jobs"]:
        reason = job["reason"] and job["reason"]["text"]["en"]
        click.echo(
            f"  job {job['job']}  {job['pipeline'] or '-'}  revision {job['revision']}  {job['outcome']}  {reason or ''}"
        )
        for m in job["measurements"] if job["outcome"] == "result" else ():
            value = "not computable" if m["value"] is None else f"{m['value']:.1f} {m['unit']}"
            click.echo(f"      {m['name']} {m['site']}: {value}{' at least' if m['status'] == 'lower_bound' else ''}")
    for d in document["deliveries"]:
        error = d["last_error"] and d["last_error"]["text"]["en"]
        click.echo(f"  to {d['destination']}  job {d['job']}  {d['state']}  attempts {d['attempts']}  {error or ''}")


def _verdict(rule: dict[str, Any]) -> str:
    """Say in one line why a rule fired or not."""
    if rule["matched"]:
        hits = [s["series_instance_uid"] for s in rule["series"] if s["matched"]]
        return f"fires for {len(hits)} of {len(rule['series'])} series ({rule['mode']})"
    tests = {
        f"{key} is {', '.join(t['found']) or 'absent'}, wanted {t['wanted']}"
        for s in rule["series"]
        for key, t in s["failed"].items()
    }
    return "does not fire: " + "; ".join(sorted(tests))
