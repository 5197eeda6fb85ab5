"""``pacs-ai-node echo``: ask whether a destination answers."""

from pathlib import Path

import click

from node.cli.common import common_options, print_json, settings_of


@click.command(name="echo")
@click.argument("dest")
@common_options
def command(dest: str, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """C-ECHO the destination DEST of the configuration."""
    from dicom_io import scu
    from dicom_io.errors import NetworkError

    del verbose
    settings = settings_of(config_file)
    place = next((d for d in settings.destination if d.name == dest), None)
    if place is None:
        raise click.UsageError(
            f"no such destination: {dest}; there are: {', '.join(d.name for d in settings.destination) or 'none'}"
        )
    try:
        taken = scu.echo(scu.Peer(place.host, place.port, place.ae_title, settings.dicom.ae_titles[0]))
    except NetworkError as error:
        reason = error.reason.as_json()
        if as_json:
            print_json({"schema": "pacs-ai-node/echo/1", "destination": dest, "ok": False, "error": reason})
        else:
            click.echo(f"Error: {reason['text']['en']} {reason['hint'].get('en', '')}", err=True)
        return 1
    if as_json:
        print_json({"schema": "pacs-ai-node/echo/1", "destination": dest, "ok": True, "seconds": round(taken, 4)})
    elif not quiet:
        click.echo(f"{dest} answers ({taken * 1000:.0f} ms)")
    return 0
