"""``pacs-ai-node doctor --rebuild-index``."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from node.cli import installed_version
from node.cli.common import log_level, print_json

if TYPE_CHECKING:
    from config import Settings


def rebuild(settings: "Settings", *, as_json: bool, quiet: bool) -> int:
    """Rebuild the index of the data folder; exit code 1 if something that had been received is not there.

    Raises
    ------
    click.UsageError
        If there is nothing to rebuild, or a node works on it.
    """
    from node import log
    from node.installation import DataFolder, DataFolderError
    from node.rebuild import Rebuild
    from node.store import StoreError

    log.configure(settings.log.format, log_level(quiet=True, verbose=False))
    folder = DataFolder(settings.node.data_dir)

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    try:
        _ = folder.installation_id
        folder.lock()  # held until this process ends
        document = Rebuild(settings, folder, installed_version(), lambda: datetime.now(UTC), say).run()
    except (DataFolderError, StoreError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        click.echo(f"Error: {folder.path}: {error.strerror}. The old index stands untouched.", err=True)
        return 1
    if as_json:
        print_json(document)
    elif not quiet:
        for line in _lines(document):
            click.echo(line)
    return 1 if document["missing"] or document["damaged"] else 0


def _lines(document: Mapping[str, Any]) -> list[str]:
    counts, journals, old = document["counts"], document["journals"], document["old_database"]
    damage = f"{journals['damaged_lines']} damaged lines, {journals['torn_bytes']} bytes torn at the end"
    lines = [
        f"journals: {journals['files']} files, {journals['records']} records, {damage}",
        f"index: {counts['studies']} studies, {counts['instances']} instances, {counts['notices']} notices",
        f"spool: {len(document['recovered'])} objects had no record and have one again",
    ]
    if old["kept_as"]:
        taken = (
            "jobs, results and deliveries taken over" if old["carried_over"] else f"not taken over: {old['why_not']}"
        )
        lines.append(f"old database: kept as {old['kept_as']}; {taken}")
    if not old["carried_over"]:
        lines.append("studies are worked again; results that were sent before leave again as the same objects")
    if document["unknown_left"]:
        which = ", ".join(document["unknown_left"])
        lines.append(
            f"corrected studies of which it is unknown what had left before; look at every destination: {which}"
        )
    if document["reopened"]:
        lines.append(f"open again, because of images that were unknown: {', '.join(document['reopened'])}")
    for kind, what in (
        ("missing", "received, but no longer in the spool: have the sender send the study again"),
        ("damaged", "hold other bytes than were received: moved to quarantine/damaged; have the sender send again"),
        ("unrecognised", "in the spool, but nothing that the node received: left alone"),
    ):
        if document[kind]:
            lines.append(f"{len(document[kind])} files {what}")
            lines += [f"  {entry}" for entry in document[kind]]
    return lines
