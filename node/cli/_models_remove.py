"""``pacs-ai-node models remove``: take a model away."""

from pathlib import Path

import click

from node.cli._models import failed, told
from node.cli.common import common_options, settings_of


@click.command(name="remove")
@click.argument("name")
@common_options
def command(name: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Take the model NAME away. A rule that names it makes the configuration invalid: correct that first."""
    from pipeline.errors import PipelineError
    from pipeline.models.shelf import Shelf

    del verbose
    settings = settings_of(config_file)
    if used := [rule.name for rule in settings.rule if name in rule.run]:
        raise click.UsageError(f"{name} is run by the rules {', '.join(used)}; take it out of them first")
    try:
        Shelf(settings.models_folder).remove(name)
    except PipelineError as error:
        return failed(error, as_json=as_json)
    return told("pacs-ai-node/models-remove/1", {"model": name}, f"{name} is removed", as_json=as_json, quiet=quiet)
