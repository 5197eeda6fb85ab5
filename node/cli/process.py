"""``pacs-ai-node process``: analyse files without a network."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.cli import installed_version
from node.cli.common import common_options, log_level, print_json, settings_of


@click.command(name="process")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the artifacts.")
@click.option("--pipeline", "pipelines", multiple=True, help="Pipeline to run; repeatable. Default: all that fit.")
@click.option("--profile", help="Encoding profile of the written objects.")
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
        writer = replace(
            settings.writer, languages=settings.node.languages, **({"profile": profile} if profile else {})
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    options = ProcessOptions(
        load=registry.shelf(settings.pipeline, settings.worker.device),
        version=installed_version(),
        now=datetime.now(UTC),
        pipelines=pipelines,
        writer=writer,
    )
    with _display(show=not quiet and sys.stderr.isatty()) as progress:
        try:
            document = process(paths, out, options, progress)
        except OutputFolderError as error:
            raise click.UsageError(str(error)) from error
    if as_json:
        print_json(document)
    elif not quiet:
        _tell(document, out)
    return exit_code(document)


def _display(*, show: bool) -> Any:  # noqa: ANN401 - a context manager that yields a factory of progress callbacks
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    @contextmanager
    def bars() -> Any:  # noqa: ANN401
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[stage]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), disable=not show) as display:

            def start(study: Any, name: str) -> Any:  # noqa: ANN401
                task = display.add_task(f"{name}: {len(study.instances)} instances", total=1.0, stage="")
                return lambda stage, share: display.update(task, completed=share, stage=stage)

            yield start

    return bars()


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
    console.print(f"  {job['pipeline'] or 'no pipeline'}: {job['outcome']}")
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
