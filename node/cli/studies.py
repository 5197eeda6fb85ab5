"""``pacs-ai-node studies``: what the node has."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from node.cli import installed_version
from node.cli._node import opened, say_if_still
from node.cli.common import common_options, print_json, settings_of


@click.command(name="studies")
@click.option("--accession", help="Accession Number.")
@click.option("--patient-id", help="Patient ID.")
@click.option("--date", help="Study Date, YYYYMMDD or YYYY-MM-DD.")
@common_options
def command(
    accession: str | None,
    patient_id: str | None,
    date: str | None,
    config_file: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """List the studies that the node knows, the newest first. Exit code 3: none."""
    from node.cli._words import columns, words
    from node.show import listing
    from node.store import studies

    del verbose
    if date is not None and not re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", date):
        raise click.UsageError(f"--date {date!r}: a study date is YYYYMMDD or YYYY-MM-DD")
    settings = settings_of(config_file)
    with opened(settings) as (db, folder):
        found = studies.find(db, accession=accession, patient_id=patient_id, date=date and date.replace("-", ""))
        document = listing(db, found, installed_version())
    if as_json:
        print_json(document)
    elif not quiet:
        said = words(settings)
        rows = [
            (
                said.time(line["last_image"]), line["hash"], line["accession"], line["patient_id"], line["date"],
                line["state"], str(line["revision"]), str(line["instances"]),
                ", ".join(_outcomes(line["jobs"])),
                line["delivery"] or "", str(line["alarms"] or ""),
            )
            for line in document["studies"]
        ]  # fmt: skip
        head = (
            "last image",
            "hash",
            "accession",
            "patient",
            "date",
            "state",
            "revision",
            "images",
            "outcome",
            "delivery",
            "alarms",
        )
        say_if_still(folder)
        if rows:
            click.echo("\n".join(columns(rows, head, indent=0)))
    return 0 if found else 3


def _outcomes(jobs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what came of each pipeline; of one with a job about each image or series, how often what came."""
    counts = Counter((j["pipeline"], f"{j['outcome']} {j['grade'] or ''}".rstrip()) for j in jobs)
    for (pipeline, said), count in counts.items():
        yield f"{pipeline or 'no pipeline'}: {said}{f' x {count}' if count > 1 else ''}"
