"""The data folder: who this installation is, and that only one node works on it."""

import contextlib
import fcntl
import os
import re
import socket
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from config.settings import Settings
from dicom_io.files import make_folders, sync_folder

_LOCK_S = 1.0
"""Whoever asks for the `status` holds the lock for an instant: it is tried for so long."""


def host_name() -> str:
    """Return what a node is called that its configuration does not name: as its host, in letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:32] or "node"


def node_name(settings: Settings) -> str:
    """Return what the node of this configuration is called."""
    return settings.node.name or host_name()


def process_name(node: str, pid: int) -> str:
    """Return the name of a process that no other of any node has while it lives."""
    return f"{node}-{pid}"


class DataFolderError(Exception):
    """The data folder cannot be used; the text says why and what to do."""


_UID = re.compile(r"[0-9.]{1,64}")


def folder_of(study_instance_uid: str) -> str:
    """Return the name of a study's folder: its UID, or the UID's hash if it is no harmless UID."""
    harmless = _UID.fullmatch(study_instance_uid) and study_instance_uid.strip(".")
    return study_instance_uid if harmless else sha256(study_instance_uid.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where everything of one node stands."""

    path: Path

    @property
    def spool(self) -> Path:
        """What was received."""
        return self.path / "spool"

    @property
    def artifacts(self) -> Path:
        """What was authored."""
        return self.path / "artifacts"

    @property
    def quarantine(self) -> Path:
        """What was refused."""
        return self.path / "quarantine"

    @property
    def database(self) -> Path:
        """The index."""
        return self.path / "node.sqlite3"

    @property
    def _shared(self) -> Path:
        return self.path / "shared"

    @property
    def installation_id(self) -> str:
        """Random identity of this installation, made once by `prepare`.

        Raises
        ------
        DataFolderError
            If no node has worked here yet.
        """
        try:
            return (self.path / "installation-id").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataFolderError(
                f"{self.path} holds no node's data: start `pacs-ai-node serve` first, or name its configuration"
            ) from error

    def prepare(self) -> None:
        """Make the folders and the installation id; what is there stays.

        Raises
        ------
        DataFolderError
            If the folder cannot be written.
        """
        try:
            make_folders(self.spool, self.artifacts, self.quarantine, mode=0o700)
            file = self.path / "installation-id"
            if not file.exists():
                part = self.path / f".installation-id.{uuid.uuid4().hex}.part"
                with part.open("w", encoding="ascii") as out:
                    out.write(uuid.uuid4().hex)
                    out.flush()
                    os.fsync(out.fileno())
                with contextlib.suppress(FileExistsError):  # another node that begins here now was quicker
                    os.link(part, file)
                part.unlink()
            sync_folder(self.path)
        except OSError as error:
            text = f"{self.path}: {os.strerror(error.errno or 0)}. Name another folder in node.data_dir, or give this user the right to write it."
            raise DataFolderError(text) from error

    def lock(self) -> int:
        """Lock the folder for this process alone and return the descriptor that holds the lock.

        Raises
        ------
        DataFolderError
            If a node holds it.
        """
        return self._locked("lock", fcntl.LOCK_EX, "another node works on this folder")

    def lock_for(self, node: str, *, shared: bool) -> tuple[int, ...]:
        """Lock the folder for `node`, alone or beside others on a `shared` database; return the descriptors that hold it.

        Raises
        ------
        DataFolderError
            If another node holds it, or one of the same name.
        """
        if not shared:
            if self._shared.exists():
                raise DataFolderError(
                    f"{self.path}: nodes with PostgreSQL work on this folder. Set database.url to theirs, or give this node its own node.data_dir. "
                    f"If they never come back, remove {self._shared}: everything received is then indexed and analysed anew."
                )
            return (self.lock(),)
        why = "a node with SQLite works on this folder, or its index is being rebuilt"
        both = self._locked("lock", fcntl.LOCK_SH, why)
        try:
            own = self._locked(
                f"lock-{node}", fcntl.LOCK_EX, f"another node {node} works on this folder: set node.name"
            )
        except DataFolderError:
            os.close(both)
            raise
        return both, own

    def shared_from_now(self) -> None:
        """Remember that nodes which share a database work here: on one of its own a node would begin with everything anew."""
        self._shared.touch(mode=0o600)

    def in_use(self) -> bool:
        """Say whether a node works here now; one that locked the folder on another machine counts."""
        return any(not _free(path) for path in (self.path / "lock", *self.path.glob("lock-*")))

    def _locked(self, name: str, how: int, why: str) -> int:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_S / 20)
                    continue
                os.close(descriptor)
                raise DataFolderError(
                    f"{self.path}: {why}. Stop it, or give this one its own node.data_dir."
                ) from error
            return descriptor


def _free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
