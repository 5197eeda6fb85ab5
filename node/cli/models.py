"""``pacs-ai-node models``: the pipelines of this installation, and the models that the site brings."""

import importlib
from pathlib import Path
from typing import Any

import click

from node.cli.common import common_options, print_json, settings_of

_COMMANDS = {
    "add": "Take a model in: a MONAI bundle, TorchScript or ONNX, with its model.toml.",
    "verify": "Compare a model's files with their digests, and try it on a phantom.",
    "card": "What a person must know about a model.",
    "bench": "How fast a model is on this machine: eager, mixed precision, compiled, ONNX.",
    "remove": "Take a model away.",
}  # name -> one line; the module is node.cli._models_<name>, its click command is `command`


class _Models(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"node.cli._models_{cmd_name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(name="models", cls=_Models, invoke_without_command=True)
@common_options
@click.pass_context
def command(ctx: click.Context, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """List the pipelines of this installation, what they take and the digests that decide their results.

    Exit code 1: a pipeline cannot be loaded here.
    """
    from pipeline import registry
    from pipeline.errors import PipelineError

    del verbose
    if ctx.invoked_subcommand is not None:
        return 0
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
