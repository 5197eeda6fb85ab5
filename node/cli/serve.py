"""``pacs-ai-node serve``: the node."""

from pathlib import Path

import click

from node.cli.common import common_options, log_level, settings_of


@click.command(name="serve")
@common_options
def command(config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Receive, analyse and deliver until SIGTERM or Ctrl-C.

    One line of JSON on stderr, ``{"event": "ready", ...}``, says when it takes associations.
    """
    from dicom_io.errors import TlsError
    from dicom_io.tls import server_context
    from node import log
    from node.installation import DataFolderError
    from node.store import StoreError
    from node.supervisor import ServeError, serve

    del as_json
    settings = settings_of(config_file)
    level = log_level(quiet=quiet, verbose=verbose)
    log.configure(settings.log.format, level)
    try:
        if settings.dicom.tls is not None:
            server_context(settings.dicom.tls)
        return serve(settings, level=level)
    except TlsError as error:
        raise click.UsageError(f"dicom.tls: {error.reason.text['en']} {error.reason.hint['en']}") from error
    except (DataFolderError, StoreError) as error:
        raise click.UsageError(str(error)) from error
    except ServeError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
