"""``pacs-ai-node echo``: ask whether a destination answers."""

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.common import common_options, print_json, settings_of

if TYPE_CHECKING:
    from config import Settings
    from config.settings import Destination


@click.command(name="echo")
@click.argument("dest")
@common_options
def command(dest: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Ask the destination DEST of the configuration whether it answers, and whether it answers queries.

    A webhook gets a document with the event "ping".

    Queries decide whether results can be checked against whose study it is there (check_study), and their arrival be
    proven (proof = "find"). Exit code 1: it does not answer, or fails on a query that the configuration wants asked.
    """
    from node.cli._words import words
    from node.web import missing

    del verbose
    settings = settings_of(config_file)
    place = next((d for d in settings.destination if d.name == dest), None)
    if place is None:
        raise click.UsageError(
            f"no such destination: {dest}; there are: {', '.join(d.name for d in settings.destination) or 'none'}"
        )
    if place.kind != "dicom" and (absent := missing(settings)):
        raise click.UsageError(absent)
    document = {"schema": "pacs-ai-node/echo/1", "destination": dest, **_asked(settings, place)}
    if as_json:
        print_json(document)
    elif not quiet or not document["ok"]:
        if "seconds" in document and not quiet:
            click.echo(f"{dest} answers ({document['seconds'] * 1000:.0f} ms)")
            for line in ["takes documents"] if place.kind == "webhook" else _means(document["query"], place):
                click.echo(f"  {line}")
        if "error" in document:
            click.echo("\n".join(words(settings).reason(document["error"], indent=2)), err=True)
    return 0 if document["ok"] else 1


def _asked(settings: "Settings", place: "Destination") -> dict[str, Any]:
    """Verify the destination, then ask it for a study that nobody has."""
    from dicom_io.errors import NetworkError
    from node.transport import transport_of

    if place.kind == "webhook":
        return _greeted(place)
    transport = transport_of(place, settings.dicom.ae_titles[0])
    try:
        seconds = transport.echo()
    except NetworkError as error:
        return {"ok": False, "error": error.reason.as_json()}
    said: dict[str, Any] = {"ok": True, "seconds": round(seconds, 4), "query": "offered"}
    try:
        transport.find_study(f"2.25.{uuid.uuid4().int}")
    except NetworkError as error:
        if error.reason.code == "query-not-offered":
            return {**said, "query": "not-offered"}
        wanted = place.check_study or place.proof == "find"
        return {**said, "query": "failed", "ok": not wanted, "error": error.reason.as_json()}
    return said


def _greeted(place: "Destination") -> dict[str, Any]:
    """Send a webhook a document that is about no study."""
    from dicom_io.errors import NetworkError
    from node.webhook import greet

    try:
        seconds = greet(place)
    except NetworkError as error:
        return {"ok": False, "error": error.reason.as_json()}
    return {"ok": True, "seconds": round(seconds, 4), "query": "not-offered"}


def _means(query: str, place: "Destination") -> list[str]:
    """Say what the answer to queries means for results that go there."""
    if query == "failed":
        return ["a query failed:"]
    offered = query == "offered"
    queries = "QIDO-RS" if place.kind == "stow" else "Study Root C-FIND"
    said = [f"answers {queries}" if offered else f"offers no {queries}"]
    if not place.check_study:
        said.append("check_study = false: it is not asked whose study it is")
    elif offered:
        said.append("check_study: results wait until it has the study, under the same patient")
    else:
        said.append("check_study has no effect: results are sent without asking whose study it is there")
    if place.proof == "find":
        said.append(
            "proof: arrival is confirmed by asking for the objects" if offered else "proof: arrival is not confirmed"
        )
    else:
        said.append(f'proof = "{place.proof}"')
    return said
