"""Both ends of the main job on one machine: a small PACS, the node beside it, a scanner that sends a study.

The demo, the benchmarks and tests use it. It speaks to the node as a hospital does: by configuration file, sockets and
the command line.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dicom_io.scu import Peer, StoreReport, store
from node.loopback_pacs import LoopbackPacs, Received

SCANNER = "SCANNER"
_CONFIGURATION = """\
# Written for a rehearsal on this machine; see config/pacs-ai-node.toml for every key.
[node]
data_dir = {data_dir}

[dicom]
ae_titles = ["PACSAINODE"]
host = "127.0.0.1"
port = 0

[[dicom.peer]]
ae_title = "{scanner}"
host = "127.0.0.1"
{sends}
[study]
settle_s = 0.5
quiet_s = {quiet_s}
pace = "fixed"
boot_grace_s = 2.0

[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "{pacs}"

[[rule]]
name = "chest CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
send_to = ["pacs"]
"""


class RehearsalError(Exception):
    """The node or the PACS did not do what was waited for; the text says where to look."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the node listens."""

    host: str
    port: int
    ae_titles: tuple[str, ...]
    pid: int


class Rehearsal:
    """A PACS and a node in `folder`; a context manager. What stands in `folder` from an earlier run is used again.

    Parameters
    ----------
    folder : Path
        Gets ``pacs/``, ``node/``, ``node.toml`` and ``node.log``.
    quiet_s : float
        The node's quiet time in seconds.
    whole : bool
        Whether the scanner is declared to send whole studies.
    environ : Mapping or None
        Environment of the node; None for this process's.
    """

    def __init__(
        self, folder: Path, *, quiet_s: float = 10.0, whole: bool = True, environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._quiet_s = quiet_s
        self._sends = 'sends = "study"\n' if whole else ""
        self._environ = environ
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: Ready | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pacs = LoopbackPacs(self.folder / "pacs", "DEMOPACS")
        try:
            self.start_node()
        except BaseException:
            self.pacs.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop_node()
        finally:
            self.pacs.stop()

    @property
    def configuration(self) -> Path:
        """The node's configuration file."""
        return self.folder / "node.toml"

    def start_node(self, timeout_s: float = 60.0) -> Ready:
        """Start ``serve`` and wait for its ready line."""
        self.configuration.write_text(
            _CONFIGURATION.format(
                data_dir=json.dumps(str((self.folder / "node").absolute())), scanner=SCANNER, quiet_s=self._quiet_s, sends=self._sends,
                port=self.pacs.port, pacs=self.pacs.ae_title,
            ),
            encoding="utf-8",
        )  # fmt: skip
        log = self.folder / "node.log"
        begin = log.stat().st_size if log.exists() else 0
        self._log = log.open("ab")
        command = [sys.executable, "-m", "node", "serve", "--config", str(self.configuration)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=self._environ)  # noqa: S603 - ourselves
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            with log.open("rb") as written:
                written.seek(begin)
                for line in written.read().splitlines():
                    if line.startswith(b"{") and b'"ready"' in line:
                        said = json.loads(line)
                        self.ready = Ready(said["host"], said["port"], tuple(said["ae_titles"]), said["pid"])
                        return self.ready
            time.sleep(0.05)
        self.stop_node()
        raise RehearsalError(f"the node did not get ready; its last words are in {log}")

    def stop_node(self) -> None:
        """End the node by SIGTERM, as an operator does."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()
        self._process, self._log = None, None

    def push(self, files: Sequence[Path], calling: str = SCANNER) -> list[StoreReport]:
        """Send `files` to the node by C-STORE in one association.

        Raises
        ------
        RehearsalError
            If the node did not acknowledge every file.
        """
        if self.ready is None:
            raise RehearsalError("the node is not running")
        return _acknowledged(store(Peer(self.ready.host, self.ready.port, self.ready.ae_titles[0], calling), files))

    def archive(self, files: Sequence[Path]) -> list[StoreReport]:
        """Send `files` to the PACS, as the scanner does."""
        return _acknowledged(store(Peer(self.pacs.host, self.pacs.port, self.pacs.ae_title, SCANNER), files))

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Return the JSON document of a command of the node's command line."""
        command = [sys.executable, "-m", "node", *arguments, "--json", "--config", str(self.configuration)]
        done = subprocess.run(command, capture_output=True, check=False, env=self._environ)  # noqa: S603 - ourselves
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError as error:
            raise RehearsalError(
                f"{' '.join(arguments)}: exit code {done.returncode}, {done.stderr.decode()[-500:]}"
            ) from error
        return answer

    def wait(
        self,
        done: Callable[[dict[str, Any]], bool],
        *arguments: str,
        timeout_s: float,
        told: Callable[[dict[str, Any]], None] = lambda _document: None,
    ) -> dict[str, Any]:
        """Ask until `done` says so; every answer is given to `told`.

        Raises
        ------
        RehearsalError
            If the time is over or the node has ended.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            document = self.ask(*arguments)
            told(document)
            if done(document):
                return document
            if self._process is None or self._process.poll() is not None:
                raise RehearsalError(f"the node ended; its last words are in {self.folder / 'node.log'}")
            if time.monotonic() > deadline:
                raise RehearsalError(f"nothing after {timeout_s:.0f} s; see {self.folder / 'node.log'}")
            time.sleep(0.3)

    def results(self, sources: Iterable[str]) -> list[Received]:
        """Everything the PACS acknowledged, repeated ones too, but the source instances named by UID in `sources`."""
        known = set(sources)
        return [r for r in self.pacs.received if r.sop_instance_uid not in known]


def _acknowledged(reports: Iterable[StoreReport]) -> list[StoreReport]:
    done = list(reports)
    lost = [r for r in done if r.status != 0]
    if lost:
        why = lost[0].reason.text["en"] if lost[0].reason else f"status {lost[0].status}"
        raise RehearsalError(f"{len(lost)} of {len(done)} files were not acknowledged: {why}")
    return done
