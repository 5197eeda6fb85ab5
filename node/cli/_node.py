"""What the commands share that look into a node's data folder or act on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from node.cli.common import print_json

if TYPE_CHECKING:
    from config import Settings
    from node.installation import DataFolder
    from node.store import Database
    from node.store.rows import Study


@contextmanager
def opened(settings: "Settings") -> Iterator[tuple["Database", "DataFolder"]]:
    """Open the data folder's index.

    Raises
    ------
    click.UsageError
        If there is none, or it cannot be read (exit code 2).
    """
    from node.installation import DataFolder
    from node.store import StoreError, exists, open_database, place_of

    folder, place = DataFolder(settings.node.data_dir), place_of(settings)
    try:
        if not folder.path.is_dir() or not exists(place):
            raise click.UsageError(
                f"{folder.path}: no node has worked here. Start `pacs-ai-node serve`, or name its configuration with --config."
            )
        db = open_database(place)
    except StoreError as error:
        raise click.UsageError(str(error)) from error
    try:
        yield db, folder
    finally:
        db.close()


def study_named(db: "Database", name: str) -> "Study | None":
    """Return the study that `name` (UID, accession number or hash) means.

    Raises
    ------
    click.UsageError
        If an accession number stands for several studies.
    """
    from node.store import studies

    found = studies.named(db, name)
    if len(found) > 1:
        raise click.UsageError(
            f"{name} is the accession number of {len(found)} studies; name one: {', '.join(s.uid for s in found)}"
        )
    return found[0] if found else None


def say_if_still(folder: "DataFolder") -> None:
    """Say that the node does not run: what it is said to wait for, or is asked to do, happens when it is started."""
    if not folder.in_use():
        click.echo("The node is NOT RUNNING: nothing happens before it is started.")


def unknown_study(settings: "Settings", *, as_json: bool) -> int:
    """Say that the node does not know a study; return the exit code."""
    from node.cli._words import words
    from node.reasons import REASONS

    reason = REASONS("unknown-study").as_json()
    if as_json:
        print_json({"error": reason})
    else:
        click.echo("\n".join(["Error:", *words(settings).reason(reason, indent=2)]), err=True)
    return 1
