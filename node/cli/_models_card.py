"""``pacs-ai-node models card``: what a person must know about a model."""

from pathlib import Path

import click

from node.cli._models import described, failed, told
from node.cli.common import common_options, settings_of


@click.command(name="card")
@click.argument("name")
@click.option("--language", default="en", show_default=True, help="en or zh-CN.")
@common_options
def command(name: str, language: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Print the card of the model NAME: use, origin, input, labels with their codes, operating point, digests."""
    from dicom_io.reason import LANGUAGES
    from pipeline.errors import PipelineError
    from pipeline.models.card import card
    from pipeline.models.shelf import Shelf

    del verbose
    if language not in LANGUAGES:
        raise click.UsageError(f"no such language: {language}; there are: {', '.join(LANGUAGES)}")
    try:
        installed = Shelf(settings_of(config_file).models_folder).get(name)
    except PipelineError as error:
        return failed(error, as_json=as_json)
    document = {**described(installed), "description": installed.model.as_table()}
    return told("pacs-ai-node/models-card/1", document, card(installed, language), as_json=as_json, quiet=quiet)
