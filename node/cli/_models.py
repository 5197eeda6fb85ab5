"""What the commands of ``pacs-ai-node models`` share."""

import atexit
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.common import print_json

if TYPE_CHECKING:
    from dicom_io.model import Series
    from pipeline.errors import PipelineError
    from pipeline.models.shelf import Installed

_SLICES, _MATRIX, _ROWS = 24, 96, 128


def told(schema: str, document: dict[str, Any], text: str, *, as_json: bool, quiet: bool) -> int:
    """Print what was done; return exit code 0."""
    if as_json:
        print_json({"schema": schema, **document})
    elif not quiet:
        click.echo(text)
    return 0


def failed(error: "PipelineError", *, as_json: bool) -> int:
    """Print why it was not done; return exit code 1."""
    reason = error.reason
    if as_json:
        print_json({"error": reason.as_json()})
    click.echo(reason.text["en"], err=True)
    if hint := reason.hint.get("en"):
        click.echo(hint, err=True)
    return 1


def tried(installed: "Installed", device: str) -> dict[str, Any]:
    """Run a model on a phantom of the chest from pixels to a result, whatever part of the body it is for.

    Raises
    ------
    PipelineError
        If it cannot be loaded, or does not take or give what its description says.
    """
    from pipeline.models.pipeline import build

    series = _example(installed.model.input.kind)
    begin = time.perf_counter()
    result = build(installed, device).run(series).result
    return {
        "device": result.device, "seconds": round(time.perf_counter() - begin, 3), "segments": len(result.segments),
        "findings": len(result.findings),
    }  # fmt: skip


@cache
def _example(kind: str) -> "Series":
    """Return a series of a phantom; its files stay until this process ends."""
    import phantom
    from dicom_io.model import group
    from dicom_io.read import read_instance
    from phantom import radiograph

    folder = tempfile.TemporaryDirectory(prefix="pacs-ai-node-")
    atexit.register(folder.cleanup)
    if kind == "image":
        radiograph.write(radiograph.expose(radiograph.Exposure(1, rows=_ROWS, columns=_ROWS)), Path(folder.name))
    else:
        phantom.write(phantom.build(1, matrix=_MATRIX, slices=_SLICES), Path(folder.name))
    (study,) = group([read_instance(path) for path in sorted(Path(folder.name, "dicom").rglob("*.dcm"))])
    return study.series[0]


def described(installed: "Installed") -> dict[str, Any]:
    """Return what every answer says of a model."""
    model = installed.model
    return {
        "model": model.name, "version": model.version, "format": model.format, "task": model.task,
        "weights_digest": installed.digest,
    }  # fmt: skip
