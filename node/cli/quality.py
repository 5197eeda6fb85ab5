"""``pacs-ai-node quality``: limits of image quality of this site, and charts by device."""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli import installed_version
from node.cli.common import common_options, log_level, print_json, settings_of

if TYPE_CHECKING:
    from node.quality.calibrate import Calibration

_LINE_S = 3.0


@click.group(name="quality", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Limits of image quality learned from images of this site, and charts of each device."""


@command.command(name="calibrate")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The file of limits; it must not exist yet."
)
@click.option("--least", type=int, help="Fewest images of a device to learn from. Default: 50.")
@click.option("--by", default="", help="Who makes it; stands in the file. Default: the user of this machine.")
@common_options
def calibrate(
    paths: tuple[Path, ...],
    out: Path,
    least: int | None,
    by: str,
    config_file: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Measure the images in FOLDER and write limits for exposure, noise and sharpness of each device.

    Use images as they come, several hundred of each device, that somebody has found acceptable. The file is for a person
    to review; nothing uses it before the configuration names it. No patient stands in it.

    Exit code 3: nothing could be learned; the file says why.
    """
    from config.settings import Pipelines
    from node import log
    from node.quality.calibrate import calibrate as measure
    from node.quality.calibrate import document, limits_file
    from node.quality.learn import policy
    from pipeline import registry

    settings = settings_of(config_file)
    log.configure(settings.log.format, log_level(quiet=quiet, verbose=verbose))
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        raise click.UsageError(f"no such file or folder: {', '.join(missing)}")
    fewest = int(policy()["floor"])
    least = int(policy()["least_images"]) if least is None else least
    if least < fewest:
        raise click.UsageError(f"--least {least}: from fewer than {fewest} images no limit can be learned")
    if out.exists():
        raise click.UsageError(f"{out} is there already, and may have been reviewed. Name another file, or remove it.")
    load = registry.shelf(Pipelines(), settings.worker.device)  # as shipped
    found = measure(paths, load, least, _progress(quiet=quiet))
    try:
        _written(out, limits_file(found, least, datetime.now(UTC), by or _user()))
    except OSError as error:
        raise click.UsageError(f"{out}: {error.strerror}. Name a file with --out that can be written.") from error
    if as_json:
        print_json(document(found, out, least, installed_version()))
    elif not quiet:
        _tell(found, out)
    return 0 if found.changes else 3


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container that knows no users
        return ""


def _written(out: Path, content: str) -> None:
    """Write a file of limits as a whole, once it reads back as it should."""
    from pipeline import registry
    from pipeline.quality.limits import Limits

    part = out.with_name(f".{out.name}.part")
    part.write_text(content, encoding="utf-8")
    try:
        for name in registry.graded():
            Limits.read(name, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _progress(*, quiet: bool) -> Callable[[str, int, int], None]:
    last = time.monotonic()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        if quiet or (time.monotonic() - last < _LINE_S and (not of or done < of)):
            return
        last = time.monotonic()
        click.echo(f"{done} of {of} {what}" if of else f"{done} {what}", err=True)

    return tell


def _tell(found: "Calibration", out: Path) -> None:
    click.echo(f"{found.images} images of {found.studies} studies, {found.patients} patients")
    for code, count in found.refused.items():
        click.echo(f"  not measured: {code}: {count}")
    for of in found.learned:
        who = ", ".join(v for v in of.device.as_json().values() if v) or "device not named"
        changed = sum(b.bound is not None for b in of.bounds)
        click.echo(f"  {who} ({of.pipeline}): {of.images} images, {changed} of {len(of.bounds)} limits learned")
        for why in sorted({b.why for b in of.bounds if b.bound is None}):
            click.echo(f"    {why}")
    click.echo(f"{out}: review it, then name it in the configuration: limits = ...")


@command.command(name="report")
@click.option("--since", metavar="DATE", help="Only what was graded on this day (UTC) and after: 2026-11-01.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html and report.json.")
@common_options
def report(
    since: str | None, out: Path | None, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Say what this node's images were graded, by device and month, with a control chart of every measure.

    It reads the node's database, running or not. No patient stands in it: devices, dates and hashes of studies.

    Exit code 3: nothing was graded in this time.
    """
    import json

    from node.cli._node import opened
    from node.quality import report as of
    from node.quality.page import page
    from node.store.quality import graded
    from pipeline import registry

    del verbose
    begin = None if since is None else _begin(since)
    now = time.time()
    with opened(settings_of(config_file)) as (db, _):
        found = of.report(graded(db, registry.graded(), begin or 0.0))
    document = of.document(found, begin, now, installed_version())
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "report.html").write_text(page(found, begin, now), encoding="utf-8")
            text = json.dumps(document, ensure_ascii=False, indent=1)
            (out / "report.json").write_text(text, encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"{out}: {error.strerror}. Name a folder with --out.") from error
    if as_json:
        print_json(document)
    elif not quiet:
        _show(document, out)
    return 0 if found.images else 3


def _begin(since: str) -> float:
    try:
        day = date.fromisoformat(since)
    except ValueError as error:
        raise click.UsageError(f"--since {since}: is no date like 2026-11-01") from error
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _show(document: dict[str, Any], out: Path | None) -> None:
    from rich.console import Console

    from node.quality.page import named

    console = Console(markup=False, highlight=False)
    if not document["images"]:
        console.print("Nothing was graded in this time.")
    months = _table("device", "month", "n", *"ABCD", "not graded", "findings")
    for row in document["months"]:
        found = "\n".join(f"{count} {code}" for code, count in row["findings"].items())
        grades = (str(row["grades"][grade]) for grade in "ABCD")
        refused = sum(row["refused"].values())
        months.add_row(_who(row), row["month"], str(row["images"]), *grades, str(refused), found)
    if document["months"]:
        console.print(months)
    charts = _table("device", "measure", "n", "centre", "limits", "out of control", "the last")
    for row in document["charts"]:
        limits, wild = row["limits"], row["out_of_control"]
        if limits is None:
            continue
        span = f"{limits['low']:.4g} .. {limits['high']:.4g}"
        last = f"{wild[-1]['utc'][:10]} {wild[-1]['study']}" if wild else ""
        name = named(row["measure"], row["unit"])
        charts.add_row(_who(row), name, str(row["n"]), f"{limits['centre']:.4g}", span, str(len(wild)), last)
    if charts.row_count:
        console.print(charts)
    if out is not None:
        console.print(f"{out / 'report.html'}")


def _who(row: dict[str, Any]) -> str:
    from dicom_io.device import Device
    from node.quality.page import name_of

    return f"{name_of(Device(**row['device']))} ({row['pipeline']})"


def _table(*columns: str) -> Any:  # noqa: ANN401 - rich is imported late
    from rich.table import Column, Table

    return Table(*(Column(name, overflow="fold") for name in columns))
