"""``pacs-ai-node models add``: take a model in."""

from pathlib import Path
from typing import Any

import click

from node.cli._models import described, failed, told, tried
from node.cli.common import common_options, settings_of


@click.command(name="add")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--description", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A model.toml, or the part of one that SOURCE does not have or says otherwise.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Take the place of a model of the same name.")
@common_options
def command(
    source: Path,
    description: Path | None,
    replace: bool,
    config_file: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Take in the model at SOURCE: a folder, a zip file, or one file of weights.

    It is looked through, compared with its digests and tried on a phantom before it is there. It becomes a pipeline of its
    name, which `process` runs at once, and `serve` after its next start where a rule names it.
    """
    from pipeline import registry
    from pipeline.errors import PipelineError
    from pipeline.models.shelf import Installed, Shelf

    del verbose
    settings = settings_of(config_file)
    trial: dict[str, Any] = {}

    def attempt(installed: Installed) -> None:
        trial.update(tried(installed, settings.worker.device))

    try:
        installed = Shelf(settings.models_folder).add(
            source, description, taken=registry.built_in(), replace=replace, trial=attempt
        )
    except PipelineError as error:
        return failed(error, as_json=as_json)
    document = {**described(installed), "folder": str(installed.folder), "trial": trial}
    text = (
        f"{installed.model.name} {installed.model.version} ({installed.model.format}) is installed: {installed.digest}"
    )
    return told("pacs-ai-node/models-add/1", document, text, as_json=as_json, quiet=quiet)
