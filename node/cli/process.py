"""``pacs-ai-node process``: analyse files without a network."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.cli import installed_version
from node.cli.common import common_options, log_level, print_json, settings_of

_LINE_S = 3.0
"""Seconds between two lines of progress where there is no terminal."""


@click.command(name="process")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the artifacts.")
@click.option("--pipeline", "pipelines", multiple=True, help="Pipeline to run; repeatable. Default: all that fit.")
@click.option("--profile", help="Which objects are written: air, ohif (default), weasis, slicer, legacy or pdf-only.")
@common_options
def command(
    paths: tuple[Path, ...],
    out: Path,
    pipelines: tuple[str, ...],
    profile: str | None,
    config_file: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Analyse folders, zip files or single files of DICOM at PATHS and write what was found below --out.

    Exit code 0: every study got a result; 3: at least one could not be judged; 1: something failed.
    """
    from dataclasses import replace

    from node import log
    from node.process import OutputFolderError, ProcessOptions, exit_code, process
    from pipeline import registry

    settings = settings_of(config_file)
    log.configure(settings.log.format, log_level(quiet=quiet, verbose=verbose))
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        raise click.UsageError(f"no such file or folder: {', '.join(missing)}")
    unknown = sorted(set(pipelines) - set(registry.available()))
    if unknown:
        raise click.UsageError(f"no such pipeline: {', '.join(unknown)}; there are: {', '.join(registry.available())}")
    try:
        chosen: dict[str, Any] = {"languages": settings.node.languages, **({"profile": profile} if profile else {})}
        writer = replace(settings.writer, **chosen)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    options = ProcessOptions(
        load=registry.shelf(settings.pipeline, settings.worker.device),
        version=installed_version(),
        now=datetime.now(UTC),
        pipelines=pipelines,
        writer=writer,
    )
    shown = contextlib.nullcontext(_Lines(quiet=quiet)) if quiet or not sys.stderr.isatty() else _bars()
    with shown as display:
        try:
            document = process(paths, out, options, display.job, display.reading)
        except OutputFolderError as error:
            raise click.UsageError(str(error)) from error
    if as_json:
        print_json(document)
    elif not quiet:
        _tell(document, out)
    return exit_code(document)


class _Lines:
    """Progress as plain lines on stderr, for logs: a new stage at once but no more than one line in some seconds."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet, self._clock = quiet, clock
        self._last = clock()
        self._jobs = 0

    def reading(self, count: int) -> None:
        """Say how many files were looked at."""
        self._say(f"reading: {count} files")

    def job(self, study: Any, name: str) -> Callable[[str, float], None]:  # noqa: ANN401 - a Study, imported late
        """Say that a job begins; return what says how far it is."""
        self._jobs += 1
        who = f"job {self._jobs}: {name}: {len(study.instances)} instances"
        self._say(who, at_once=True)
        return lambda stage, share: self._say(f"{who}: {stage} {share:.0%}")

    def _say(self, line: str, *, at_once: bool = False) -> None:
        now = self._clock()
        if not self._quiet and (at_once or now - self._last >= _LINE_S):
            self._last = now
            click.echo(line, err=True)


@contextlib.contextmanager
def _bars() -> Iterator[Any]:
    """Show progress as bars in a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[stage]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as display:

        class Bars:
            files = display.add_task("reading", total=None, stage="")

            def reading(self, count: int) -> None:
                display.update(self.files, completed=count, stage=f"{count} files")

            def job(self, study: Any, name: str) -> Callable[[str, float], None]:  # noqa: ANN401 - a Study
                display.update(self.files, total=1, completed=1)
                task = display.add_task(f"{name}: {len(study.instances)} instances", total=1.0, stage="")
                return lambda stage, share: display.update(task, completed=share, stage=stage)

        yield Bars()


def _tell(document: dict[str, Any], out: Path) -> None:
    """Print the outcome for a person."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    for study in document["studies"]:
        console.print(
            f"Study {study['study_instance_uid']}: {study['instances']} instances in {study['series']} series"
        )
        for job in study["jobs"]:
            _tell_job(console, job, out)
    for kind in ("quarantined", "skipped"):
        if rows := document[kind]:
            console.print(f"{len(rows)} {kind}: " + "; ".join(sorted({r["reason"]["code"] for r in rows})))
    if not document["studies"]:
        console.print("No DICOM images were found. Name a folder, a zip file or files that hold DICOM images.")


def _tell_job(console: Any, job: dict[str, Any], out: Path) -> None:  # noqa: ANN401 - rich is imported late
    about = "" if job["subject"] == "study" else f" of {job['subject']}"
    grade = f", image quality {job['quality']['grade']}" if job["quality"] and not job["measurements"] else ""
    console.print(f"  {job['pipeline'] or 'no pipeline'}{about}: {job['outcome']}{grade}")
    for finding in (job["quality"] or {}).get("findings", ()) if about else ():
        console.print(f"    {finding['grade']} {finding['text']['en']}")
    if job["reason"]:
        console.print(f"    {job['reason']['text']['en']}")
        if hint := job["reason"]["hint"].get("en"):
            console.print(f"    {hint}")
    if job["measurements"]:
        console.print(_table(job))
    for finding in job["findings"]:
        numbers = ", ".join(f"{m['name']} {_value(m)}" for m in finding["measurements"])
        console.print(f"    {finding['tracking_id']} ({finding['site']}): {numbers}")
    for artifact in job["artifacts"]:
        console.print(f"    {out / artifact['path']}")


def _table(job: dict[str, Any]) -> Any:  # noqa: ANN401 - rich is imported late
    from rich.table import Table

    sites = list(dict.fromkeys(m["site"] for m in job["measurements"]))
    names = list(dict.fromkeys(m["name"] for m in job["measurements"]))
    values = {(m["site"], m["name"]): _value(m) for m in job["measurements"]}
    table = Table("site", *names, title=f"quality {job['quality']['grade']}")
    for site in sites:
        table.add_row(site, *(values.get((site, name), "") for name in names))
    return table


def _value(measurement: dict[str, Any]) -> str:
    if measurement["value"] is None:
        return "not computable"
    mark = ">= " if measurement["status"] == "lower_bound" else ""
    unit = {"[hnsf'U]": "HU"}.get(measurement["unit"], measurement["unit"])
    return f"{mark}{measurement['value']:.1f} {unit}"
