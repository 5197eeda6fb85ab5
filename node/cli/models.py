"""``pacs-ai-node models``: the pipelines of this installation and what they rest on."""

from pathlib import Path
from typing import Any

import click

from node.cli.common import common_options, print_json, settings_of


@click.command(name="models")
@common_options
def command(config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """List the pipelines of this installation, what they take and the digests that decide their results.

    Exit code 1: a pipeline cannot be loaded here.
    """
    from pipeline import registry
    from pipeline.errors import PipelineError

    del verbose
    settings = settings_of(config_file)
    load = registry.shelf(settings.pipeline, settings.worker.device)
    rows: list[dict[str, Any]] = []
    for name in registry.available():
        row: dict[str, Any] = {"pipeline": name, "modalities": sorted(registry.modalities(name))}
        try:
            loaded = load(name)
        except PipelineError as error:
            row |= {"installed": False, "reason": error.reason.as_json()}
        else:
            row |= {"installed": True, "version": loaded.version, "weights_digest": loaded.weights_digest}
        rows.append(row)
    if as_json:
        print_json({"schema": "pacs-ai-node/models/1", "models": rows})
    elif not quiet:
        for row in rows:
            state = f"{row['version']}, {row['weights_digest']}" if row["installed"] else row["reason"]["text"]["en"]
            click.echo(f"{row['pipeline']} ({', '.join(row['modalities'])}): {state}")
    return 0 if all(row["installed"] for row in rows) else 1
