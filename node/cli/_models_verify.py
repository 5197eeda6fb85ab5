"""``pacs-ai-node models verify``: whether a model is still the one that was added, and runs."""

from pathlib import Path

import click

from node.cli._models import described, failed, told, tried
from node.cli.common import common_options, settings_of


@click.command(name="verify")
@click.argument("name")
@common_options
def command(name: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Compare every file of the model NAME with its digest, and run it on a phantom.

    Exit code 1: a file differs, or it does not run.
    """
    from pipeline.errors import PipelineError
    from pipeline.models.shelf import Shelf

    del verbose
    settings = settings_of(config_file)
    try:
        installed = Shelf(settings.models_folder).get(name)
        installed.verify()
        trial = tried(installed, settings.worker.device)
    except PipelineError as error:
        return failed(error, as_json=as_json)
    files = dict(installed.model.files)
    text = f"{name}: {len(files)} files as they were added; runs on {trial['device']} in {trial['seconds']} s"
    document = {**described(installed), "files": files, "trial": trial}
    return told("pacs-ai-node/models-verify/1", document, text, as_json=as_json, quiet=quiet)
