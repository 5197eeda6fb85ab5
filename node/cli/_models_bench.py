"""``pacs-ai-node models bench``: how fast a model is on this machine."""

from pathlib import Path

import click

from node.cli._models import described, failed, told
from node.cli.common import common_options, settings_of


@click.command(name="bench")
@click.argument("name")
@click.option("--device", help="cpu, cuda:0 ...  [default: worker.device]")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs that are timed.")
@common_options
def command(
    name: str,
    device: str | None,
    rounds: int,
    config_file: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Time one window of the model NAME as it is, in mixed precision, compiled, and as ONNX.

    Every way is compared with the model as it is; what cannot be tried here says why.
    """
    from pipeline.errors import PipelineError
    from pipeline.models.bench import measure
    from pipeline.models.shelf import Shelf

    del verbose
    settings = settings_of(config_file)
    try:
        installed = Shelf(settings.models_folder).get(name)
        rows, shape, where = measure(installed, device or settings.worker.device, rounds)
    except PipelineError as error:
        return failed(error, as_json=as_json)
    lines = [f"{name} on {where}, input {' x '.join(map(str, shape))}, median of {rounds}"]
    for row in rows:
        if row.seconds is None:
            lines.append(f"  {row.way:<10} {row.reason}")
        else:
            memory = "" if row.peak_mib is None else f", {row.peak_mib:.0f} MiB at most"
            lines.append(
                f"  {row.way:<10} {1000 * row.seconds:.1f} ms{memory}, differs by up to {row.differs or 0:.2g}"
            )
    document = {**described(installed), "device": where, "input": list(shape), "rows": [row.as_json() for row in rows]}
    return told("pacs-ai-node/models-bench/1", document, "\n".join(lines), as_json=as_json, quiet=quiet)
