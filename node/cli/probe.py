"""``pacs-ai-node probe``: what a destination takes, and what its viewer shows."""

import secrets
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.common import common_options, log_level, print_json, settings_of

if TYPE_CHECKING:
    from config import Settings
    from config.settings import Destination
    from dicom_io.model import Study

_PHANTOM: dict[str, Any] = {"matrix": 128}


@click.command(name="probe")
@click.argument("dest")
@click.option("--out", type=click.Path(path_type=Path), help="Keep what is sent in this folder.")
@common_options
def command(dest: str, out: Path | None, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Send a display test to the destination DEST: a phantom of its own, and one of each object of all profiles.

    The study is called AI^DISPLAY TEST; each object has a number in its series description. Open it in the viewer and go
    through the list that this prints. Delete the study at the destination afterwards.

    Exit code 1: the destination does not answer, or does not take what its profile needs.
    """
    from node import log

    settings = settings_of(config_file)
    log.configure(settings.log.format, log_level(quiet=not verbose, verbose=verbose))
    place = next((d for d in settings.destination if d.name == dest), None)
    if place is None:
        there = ", ".join(d.name for d in settings.destination) or "none"
        raise click.UsageError(f"no such destination: {dest}; there are: {there}")
    if place.kind == "webhook":
        raise click.UsageError(f"{dest} is a webhook and takes no objects; ask it by `pacs-ai-node echo {dest}`")
    with tempfile.TemporaryDirectory(prefix="pacs-ai-node-probe-") as scratch:
        try:
            document = _probe(settings, place, out or Path(scratch))
        except OSError as error:
            raise click.UsageError(f"{out or scratch}: {error.strerror}. Name a folder with --out.") from error
    if as_json:
        print_json(document)
    elif not quiet or not document["ok"]:
        click.echo("\n".join(_told(document, settings)))
    return 0 if document["ok"] else 1


def _probe(settings: "Settings", place: "Destination", out: Path) -> dict[str, Any]:
    """Make the display test, send it and return ``pacs-ai-node/probe/1``."""
    from dataclasses import replace

    from dicom_io.status import Outcome
    from node import probe
    from node.transport import transport_of
    from pipeline import registry
    from pipeline.errors import PipelineError
    from sr_writer.profiles import shipped

    now = datetime.now(UTC)
    study = _images(out / "images", now)
    document: dict[str, Any] = {
        "schema": "pacs-ai-node/probe/1", "destination": place.name, "profile": place.profile, "ok": False,
        "study_instance_uid": study.study_instance_uid, "patient_name": probe.PATIENT_NAME,
        "images": {"sent": len(study.instances), "taken": 0, "reason": None}, "objects": [], "gets": [], "profiles": [],
    }  # fmt: skip
    writer = replace(settings.writer, languages=settings.node.languages)
    try:
        pipeline = registry.load("chest_ct", settings.pipeline.chest_ct, "cpu")
        found = probe.author(study, pipeline, _installation(settings), writer, now, out, place.wants)
    except (probe.ProbeError, PipelineError) as error:
        return {**document, "error": {"code": "display-test-failed", "text": {"en": str(error)}}}
    transport = transport_of(place, settings.dicom.ae_titles[0])
    reports = probe.send(transport, [i.path for i in study.instances], found)
    good = (Outcome.DELIVERED, Outcome.DELIVERED_WITH_WARNING)
    reason = next((r.reason for r in reports if r.outcome not in good), None)
    document["images"] |= {
        "taken": sum(r.outcome in good for r in reports), "reason": None if reason is None else reason.as_json()
    }  # fmt: skip
    document["objects"] = list(probe.rows(found))
    document["profiles"] = [name for name, profile in shipped().items() if probe.whole(profile, found)]
    document["gets"] = list(probe.gets(place.wants, found))
    document["ok"] = probe.whole(place.wants, found)
    return document


def _images(folder: Path, now: datetime) -> "Study":
    """Write a phantom as a study that nobody can take for a patient's."""
    import phantom
    from dicom_io.model import group
    from dicom_io.read import read_instance
    from node.probe import PATIENT_NAME
    from phantom.dicom import save

    number = secrets.randbelow(10**8)
    made = phantom.build(
        1, **_PHANTOM, patient_name=PATIENT_NAME, patient_id="AI-DISPLAY-TEST", accession=f"TEST{number:08d}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, ds in enumerate(phantom.datasets(made), start=1):
        ds.StudyDescription, ds.SeriesDescription = "AI DISPLAY TEST - NOT A PATIENT", "Phantom, made by computer"
        ds.StudyDate, ds.StudyTime = f"{now.astimezone():%Y%m%d}", f"{now.astimezone():%H%M%S}"
        paths.append(save(ds, folder / f"{n:04d}.dcm"))
    return group([read_instance(path) for path in paths])[0]


def _installation(settings: "Settings") -> str:
    """Return the installation id of the node, by which it knows its objects when they come back; else one for this time."""
    from node.installation import DataFolder, DataFolderError

    try:
        return DataFolder(settings.node.data_dir).installation_id
    except DataFolderError:
        return uuid.uuid4().hex


def _told(document: dict[str, Any], settings: "Settings") -> list[str]:
    """Return the list for a person who stands before the viewer."""
    from node.cli._words import columns, words

    say = words(settings)
    images = document["images"]
    lines = [
        f"Study {document['study_instance_uid']}",
        f"  patient {document['patient_name']}, {images['taken']} of {images['sent']} images taken by {document['destination']}",
    ]
    if "error" in document:
        return [*lines, f"  {document['error']['text']['en']}"]
    if images["reason"]:
        return [*lines, *say.reason(images["reason"])]
    lines += ["", "Open it in the viewer and look for each number in the series descriptions:"]
    for o in document["objects"]:
        taken = "taken" if o["taken"] else "NOT TAKEN"
        lines += columns(
            [(f"TEST {o['number']:02d}", f"series {o['series_number']}", taken, o["name"]["en"], o["form"])]
        )
        if o["taken"]:
            lines += [f"      [ ] {o['look']['en']}", f"          {o['look']['zh-CN']}"]
        lines += say.reason(o["reason"], indent=6)
    whole = ", ".join(document["profiles"]) or "none"
    lines += [
        "",
        f"Profiles whose objects are all taken: {whole}",
        f"Profile of this destination: {document['profile']}"
        + ("" if document["ok"] else ": NOT all that it needs is taken"),
        *columns([(o["wanted"], _goes(o)) for o in document["gets"]]),
        "What is taken may still not be shown: choose the profile by what you have seen (docs/what-each-viewer-shows.md), and",
        "write down what each number showed, in which viewer and version (--json > FILE keeps this list).",
        "Delete the study at the destination when you have seen it.",
    ]
    return lines


def _goes(one: dict[str, Any]) -> str:
    """Say what goes of one object of the profile."""
    if one["sent"] is None:
        return "NOT TAKEN: deliveries fail" if one["needed"] else "left out"
    return "goes" if one["sent"] == one["wanted"] else f"{one['sent']} goes instead"
