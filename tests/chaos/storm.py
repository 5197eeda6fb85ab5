"""Random SIGKILLs of a node under load: several senders, a small PACS that dies too, and a ledger of what was acknowledged.

Everything that is needed to go on stands in one folder: a storm that is interrupted continues where it was. The node is
the real one with the quick pipeline of `tests/node/probe_node.py`.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pydicom import dcmread

import phantom
from dicom_io.read import digest_dataset
from dicom_io.scu import Peer, Timeouts, store
from node import show
from node.installation import DataFolder
from node.store import Database, StoreError, open_database
from node.store import node as node_store
from tests.chaos import oracle

REPOSITORY = Path(__file__).parents[2]
ROLES = ("receiver", "coordinator", "worker", "deliverer", "supervisor", "tree")
_WEIGHTS = (3, 3, 4, 3, 2, 2)
"""``tree``: supervisor and children at once, as a power cut does."""
_PACS_SHARE = 0.1
"""How often the PACS is killed too, per kill of the node."""
_ANYWHEN = 0.15
"""Share of the kills that do not wait until the node receives again: they hit it while it starts."""
_AHEAD = 0.04
"""Share of the studies that the senders may be ahead of the kills, so that load and kills end together."""
_TIMEOUTS = Timeouts(connect_s=5.0, associate_s=10.0, answer_s=20.0)
_PORTS = (20000, 30000)
"""Below the kernel's own choice: no sender's socket takes a port while its owner is dead."""

_CONFIGURATION = """\
[node]
data_dir = {data}
[dicom]
port = {port}
[[dicom.peer]]
ae_title = "WHOLE"
host = "127.0.0.1"
sends = "study"
[[dicom.peer]]
ae_title = "SCANNER"
host = "127.0.0.1"
[study]
settle_s = 0.2
quiet_s = 4.0
pace = "fixed"
boot_grace_s = 1.0
[worker]
lease_s = 5.0
slots = 2
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
ae_title = "PACS"
[[rule]]
name = "CT"
when = {{ Modality = "CT" }}
run = ["chest_ct"]
send_to = ["pacs"]
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen.

    Parameters
    ----------
    slices : int
        Images of one study.
    pause_s : float
        Mean time between two kills; they are spread exponentially.
    """

    studies: int
    kills: int
    seed: int
    slices: int = 8
    pause_s: float = 2.0
    senders: int = 4


@dataclass(slots=True)
class State:
    """How far the storm has come; written down after each kill."""

    kills: Counter[str]
    pacs_kills: int = 0
    wall_s: float = 0.0
    node_pid: int = 0
    pacs_pid: int = 0


def free_port(taken: Sequence[int] = ()) -> int:
    """Return a port on which nobody listens."""
    for port in random.sample(range(*_PORTS), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in taken:
                return port
    raise OSError("no free port")


class Storm:
    """One storm in `folder`; `run` goes on from what stands there."""

    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None] = print) -> None:
        self.folder, self._say = folder, say
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "plan.json"
        if kept.exists():
            plan, ports = Plan(**json.loads(kept.read_text())["plan"]), json.loads(kept.read_text())["ports"]
        else:
            ports = [free_port(), 0]
            ports[1] = free_port(ports)
            kept.write_text(json.dumps({"plan": asdict(plan), "ports": ports}))
        self.plan, (self.port, self._pacs_port) = plan, ports
        self.data, self.pacs = DataFolder(folder / "data"), folder / "pacs"
        self._state_file, self._ledger_file = folder / "state.json", folder / "ledger.jsonl"
        self.state = self._restored()
        self._ledger_lock = threading.Lock()
        self._stop = threading.Event()
        self._next = 0
        self._node: subprocess.Popen[bytes] | None = None
        self._pacs: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._sources = self._make_studies()

    # --- the whole --------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Let it rage, wait until it is calm, and return the summary."""
        before, begun = self.state.wall_s, time.monotonic()
        done = {row.sop for row in oracle.ledger(self._ledger_file)}
        with (self.folder / "node.log").open("ab") as self._log:
            try:
                self._tend()
                self._archive()
                senders = [threading.Thread(target=self._send, args=(done,)) for _ in range(self.plan.senders)]
                for sender in senders:
                    sender.start()
                self._rage(lambda: before + time.monotonic() - begun)
                self._calm(senders)
            finally:
                self._stop.set()
                self._end()
        self.state.wall_s = before + time.monotonic() - begun
        self._write()
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """Judge what stands in the folder."""
        acknowledged = oracle.ledger(self._ledger_file)
        sources = frozenset(row[0] for files in self._sources.values() for row in files[:1])
        found = oracle.facts(self.data, self.pacs, acknowledged, sources)
        faults = oracle.judge(found)
        kinds = Counter(fault.kind for fault in faults)
        standing = Counter(f"{j.outcome or j.state}" for j in found.jobs if j.state in {"done", "dead"})
        return {
            "plan": asdict(self.plan),
            "studies": len({row.study for row in acknowledged}),
            "acknowledged": len(acknowledged),
            "missing": kinds["missing"] + kinds["unindexed"],
            "duplicated": kinds["duplicated"] + kinds["altered"] + kinds["two-outcomes"],
            "absent": kinds["absent"] + kinds["partial"] + kinds["no-outcome"] + kinds["stuck"],
            "foreign": kinds["foreign"],
            "faults": [asdict(fault) for fault in faults],
            "outcomes": dict(standing),
            "artifacts_at_pacs": len({a.sop for a in found.arrived} - sources),
            "stores_at_pacs": sum(a.sop not in sources for a in found.arrived),
            "kills": self.state.kills.total(),
            "kills_by_role": dict(self.state.kills),
            "pacs_kills": self.state.pacs_kills,
            "wall_s": round(self.state.wall_s, 1),
        }

    # --- the load -----------------------------------------------------------------------------------------------------

    def _make_studies(self) -> dict[int, list[tuple[str, str, Path]]]:
        """Write every study; return its images as (SOP Instance UID, digest, file)."""
        model = self.folder / "model"
        if not (model / "dicom").exists():
            phantom.write(phantom.build(7, matrix=64, slices=64), model)
        files = sorted((model / "dicom").glob("*.dcm"))[28 : 28 + self.plan.slices]
        made: dict[int, list[tuple[str, str, Path]]] = {}
        for number in range(self.plan.studies):
            images = []
            for k, file in enumerate(files):
                out = self.folder / "studies" / f"{number:04}" / f"{k:03}.dcm"
                uid = f"{self.study(number)}.1.{k + 1}"
                if not out.exists():
                    out.parent.mkdir(parents=True, exist_ok=True)
                    ds = dcmread(file)
                    ds.StudyInstanceUID, ds.SeriesInstanceUID = self.study(number), f"{self.study(number)}.1"
                    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
                    ds.PatientID, ds.PatientName = self.patient(number), f"Storm^{number}"
                    ds.AccessionNumber = f"A{number}"
                    ds.save_as(part := out.with_suffix(".part"))
                    part.replace(out)
                images.append((uid, digest_dataset(out), out))
            made[number] = images
        return made

    def study(self, number: int) -> str:
        """Return a Study Instance UID."""
        return f"2.25.{self.plan.seed}.{number + 1}"

    def patient(self, number: int) -> str:
        """Return the Patient ID of a study."""
        return f"P{self.plan.seed}-{number}"

    def _archive(self) -> None:
        """Let the PACS know every study, as an archive does that got the images first."""
        known = {row.sop for row in oracle.arrived(self.pacs)} if (self.pacs / "received.jsonl").exists() else set()
        left = [images[0][2] for images in self._sources.values() if images[0][0] not in known]
        for report in store(Peer("127.0.0.1", self._pacs_port, "PACS", "ARCHIVE"), left):
            if report.status != 0:
                raise OSError(f"the PACS did not take an image: {report.reason}")

    def _send(self, done: set[str]) -> None:
        """Send one study after the other, each until everything in it is acknowledged."""
        while not self._stop.is_set():
            with self._ledger_lock:
                number, self._next = self._next, self._next + 1
            if number >= self.plan.studies:
                return
            while number > self._due() and not self._stop.wait(0.2):
                pass
            left = [image for image in self._sources[number] if image[0] not in done]
            chance = random.Random(f"{self.plan.seed} {number}")
            if number % 3:
                chance.shuffle(left)
            while left and not self._stop.is_set():
                left = self._attempt(number, left, chance)

    def _due(self) -> float:
        return (self.state.kills.total() / max(self.plan.kills, 1) + _AHEAD) * self.plan.studies + 1

    def _attempt(
        self, number: int, left: list[tuple[str, str, Path]], chance: random.Random
    ) -> list[tuple[str, str, Path]]:
        """Send over one association what this sender sends at a time; return what is still to be sent."""
        way = number % 3
        share = {0: len(left), 1: 1, 2: -(-len(left) // 2)}[way]  # whole study, one image, half of what is left
        peer = Peer("127.0.0.1", self.port, "PACSAINODE", "SCANNER" if way else "WHOLE")
        by_path = {path: (sop, digest) for sop, digest, path in left[:share]}
        ok: set[str] = set()
        for report in store(peer, list(by_path), _TIMEOUTS):
            if report.status == 0:
                sop, digest = by_path[report.path]
                self._acknowledge(oracle.Acknowledged(sop, self.study(number), self.patient(number), digest))
                ok.add(sop)
        self._stop.wait(chance.uniform(0.05, 0.3) if ok else 0.5)
        return [image for image in left if image[0] not in ok]

    def _acknowledge(self, row: oracle.Acknowledged) -> None:
        with self._ledger_lock, self._ledger_file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(row)) + "\n")

    # --- the kills ----------------------------------------------------------------------------------------------------

    def _rage(self, wall: Callable[[], float]) -> None:
        chance = random.Random(f"{self.plan.seed} kills {self.state.kills.total()}")
        while (count := self.state.kills.total()) < self.plan.kills:
            if chance.random() > _ANYWHEN:
                self._until_up()
            at = time.monotonic() + chance.expovariate(1 / self.plan.pause_s)
            while time.monotonic() < at:
                self._tend()
                time.sleep(min(0.05, max(0.0, at - time.monotonic())))
            role = self._kill(chance)
            if role is None:  # down at this instant
                continue
            self.state.kills[role] += 1
            if chance.random() < _PACS_SHARE and self._pacs is not None:
                self._pacs.kill()
                self._pacs.wait()
                self.state.pacs_kills += 1
            self.state.wall_s = wall()
            self._write()
            if (count + 1) % 10 == 0:
                self._say(f"{count + 1}/{self.plan.kills} kills, {self._told()}, {self.state.wall_s:.0f} s")

    def _until_up(self, within_s: float = 4.0) -> None:
        """Wait until every role is there; one that died often comes back late, and the others are hit without it."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self._tend()
            if self._node is not None and {*ROLES[:4]} <= set(dict(self._children(self._node.pid)).values()):
                return
            time.sleep(0.2)

    def _kill(self, chance: random.Random) -> str | None:
        """Kill something; None if there was nothing to kill."""
        node = self._node
        if node is None or node.poll() is not None:
            return None
        children = dict(self._children(node.pid))
        there = [role for role in ROLES if role in {"supervisor", "tree", *children.values()}]
        (role,) = chance.choices(there, [_WEIGHTS[ROLES.index(role)] for role in there])
        if role == "supervisor":
            victims = [node.pid]
        elif role == "tree":
            victims = [node.pid, *children]
        else:
            victims = [pid for pid, what in children.items() if what == role][:1]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return role

    def _children(self, supervisor: int) -> Iterator[tuple[int, str]]:
        """Return the living children of the supervisor with their roles, as the kernel and the node's table have them."""
        try:
            text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii")
        except OSError:
            return
        roles = self._asked(lambda db: {p.pid: p.role for p in node_store.processes(db)}) or {}
        for pid in map(int, text.split()):
            yield pid, roles.get(pid, "starting")

    def _asked(self, question: Callable[[Database], Any]) -> Any:
        """Ask the database; None while there is none to ask."""
        if not self.data.database.exists():
            return None
        try:
            db = open_database(self.data.database)
        except StoreError:
            return None
        try:
            return question(db)
        finally:
            db.close()

    def _told(self) -> str:
        status = self._asked(lambda db: show.status(db, self.data, "storm"))
        if status is None:
            return "no status"
        return f"studies {status['studies']}, jobs {status['jobs']}, delivered {status['deliveries']['delivered'] + status['deliveries']['confirmed']}"

    # --- processes ----------------------------------------------------------------------------------------------------

    def _tend(self) -> None:
        """Start again what is down, as a service manager does."""
        if self._pacs is None or self._pacs.poll() is not None:
            self.pacs.mkdir(exist_ok=True)
            self._pacs = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.small_pacs", str(self.pacs), str(self._pacs_port)],
                cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=self._log,
            )  # fmt: skip
            with self._pacs.stdout or contextlib.nullcontext() as told:
                if told is None or not told.readline():
                    raise OSError("the small PACS did not start; see node.log")
        if self._node is None or self._node.poll() is not None:
            configuration = self.folder / "node.toml"
            text = _CONFIGURATION.format(data=json.dumps(str(self.data.path)), port=self.port, pacs=self._pacs_port)
            configuration.write_text(text, encoding="utf-8")
            kept = {k: v for k, v in os.environ.items() if not k.startswith("PACS_AI_NODE")}
            program = [sys.executable, str(REPOSITORY / "tests" / "node" / "probe_node.py"), "serve"]
            self._node = subprocess.Popen(
                [*program, "--config", str(configuration)], cwd=self.folder, stdout=self._log, stderr=self._log,
                env={**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        if (self._node.pid, self._pacs.pid) != (self.state.node_pid, self.state.pacs_pid):
            self.state.node_pid, self.state.pacs_pid = self._node.pid, self._pacs.pid
            self._write()

    def _calm(self, senders: Sequence[threading.Thread], within_s: float = 420.0) -> None:
        """No more kills: wait until everything has come to an end; what has not is the oracle's to find."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self._tend()
            if not any(s.is_alive() for s in senders):
                status = self._asked(lambda db: show.status(db, self.data, "storm"))
                if status is not None and status["idle"] and status["studies"]["closed"] >= self.plan.studies:
                    return
            time.sleep(0.5)
        self._say(f"not calm within {within_s:.0f} s: {self._told()}")

    def _end(self) -> None:
        for process in (self._node, self._pacs):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _restored(self) -> State:
        """Read how far an earlier run came, and end what it left running."""
        if not self._state_file.exists():
            return State(Counter())
        row = json.loads(self._state_file.read_text(encoding="utf-8"))
        state = State(Counter(row.pop("kills")), **row)
        for pid in (state.node_pid, state.pacs_pid):
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        return state

    def _write(self) -> None:
        part = self._state_file.with_suffix(".part")
        part.write_text(json.dumps({**asdict(self.state), "kills": dict(self.state.kills)}), encoding="utf-8")
        part.replace(self._state_file)
