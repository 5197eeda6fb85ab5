"""What `benchmarks.receive` measures besides rates: memory, idle associations, latency beside a job, floods."""

import shutil
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import receivers
from benchmarks.receivers import TITLE, Running, memory_mb
from tests.chaos.hostile_scanner import HostileScanner, store_command
from tests.chaos.wire import AC, DATA, RELEASE_RP, RELEASE_RQ, encoded, pdu, pdv, read_pdu

_JOB = "import numpy as n\na = n.random.rand(1500, 1500)\nwhile True:\n    a @ a"
"""Two threads that compute, as a pipeline does."""


def memory(work: Path, images: int = 20_000, gigabytes: float = 2.0) -> None:
    """Print how much memory the receivers have while images come, and one large object."""
    folders = receivers.write_objects(work, images // 2, senders=2, shape=(64, 64))
    large = work / "large"
    large.mkdir()
    receivers.write_large(large / "large.dcm", gigabytes)
    print(f"\n{images} images over two associations, then one object of {gigabytes:.1f} GB\n")
    print("| | " + " | ".join(f"receiver {n} MB" for n in (1, 2)) + " |\n|---|---|---|")
    with receivers.node(work / "node") as running:
        pids = running.receivers()

        def tell(what: str) -> None:
            print(f"| {what} | " + " | ".join(f"{memory_mb(pid):.0f}" for pid in pids) + " |", flush=True)

        tell("before")
        sending = threading.Thread(target=receivers.send, args=(running, folders))
        begin, next_s = time.monotonic(), 5.0
        sending.start()
        while sending.is_alive():
            sending.join(0.2)
            if time.monotonic() - begin > next_s:
                tell(f"after {next_s:.0f} s")
                next_s *= 1.5
        tell(f"all {images} images, {time.monotonic() - begin:.0f} s")
        took, stop, peak = [0.0], threading.Event(), dict.fromkeys(pids, 0.0)

        def watch() -> None:
            while not stop.wait(0.05):
                peak.update({pid: max(peak[pid], memory_mb(pid)) for pid in pids})

        watching = threading.Thread(target=watch)
        watching.start()
        took[0] = receivers.send(running, [large])
        stop.set()
        watching.join()
        print(
            f"| highest during the large object, {took[0]:.0f} s | " + " | ".join(f"{peak[p]:.0f}" for p in pids) + " |"
        )
    for folder in (*folders, large):
        shutil.rmtree(folder)


def idle(work: Path, seconds: float = 20.0) -> None:
    """Print what ten idle associations cost."""
    with (
        receivers.node(work / "node", dicom="idle_s = 600.0") as running,
        HostileScanner(running.port, "IDLE", TITLE) as peer,
    ):
        pids = running.receivers()
        shares = []
        for count in (0, 10):
            for _ in range(count):
                peer.associate()
            before, begin = running.cpu_s(pids), time.monotonic()
            time.sleep(seconds)
            shares.append((running.cpu_s(pids) - before) / (time.monotonic() - begin))
    print(f"\nten idle associations: {shares[1]:.2%} of a core ({shares[0]:.2%} without any), {seconds:.0f} s each")


def latency(work: Path, objects: int = 200) -> None:
    """Print how long a CT slice takes from its first byte to its answer, idle and beside a job."""
    with receivers.node(work / "node") as running:
        quiet = _latencies(running, objects)
        with _job():
            busy = _latencies(running, objects)
        again = _latencies(running, objects)
    print("\n| C-STORE of 0.5 MB | median ms | 95 % ms | x idle |\n|---|---|---|---|")
    for what, times in (("idle", quiet), ("beside a job of two threads at nice 10", busy), ("idle again", again)):
        high = statistics.quantiles(times, n=20)[-1]
        ratio = statistics.median(times) / statistics.median(quiet)
        print(f"| {what} | {statistics.median(times) * 1e3:.1f} | {high * 1e3:.1f} | {ratio:.2f} |")


def flood(work: Path, associations: int = 10_000, half_open: int = 500, at_once: int = 8) -> None:
    """Print how long a real sender takes beside half-open connections and tiny associations of its own address."""
    (small,) = receivers.write_objects(work, 1, shape=(64, 64))
    with receivers.node(work / "node") as running:
        alone = [receivers.send(running, [small]) for _ in range(5)]
        with HostileScanner(running.port, "FLOOD", TITLE) as enemy:
            for _ in range(half_open):
                enemy.connect()
            beside = [receivers.send(running, [small]) for _ in range(5)]
            done = [0] * at_once
            tiny = [
                threading.Thread(target=_tiny, args=(running, done, number, associations // at_once))
                for number in range(at_once)
            ]
            begin = time.monotonic()
            for thread in tiny:
                thread.start()
            during = []
            while any(thread.is_alive() for thread in tiny):
                during.append(receivers.send(running, [small]))
            took = time.monotonic() - begin
        lines = running.log.read_bytes().count(b"\n")
        held = [memory_mb(pid) for pid in running.receivers()]
    print(
        f"\n{sum(done)} tiny associations in {took:.0f} s, {at_once} at once, {half_open} half-open sockets, one address"
    )
    print("\n| a real sender (storescu, process and all) | median s | longest s | times |\n|---|---|---|---|")
    for what, times in (("alone", alone), ("beside half-open sockets", beside), ("beside both", during)):
        print(f"| {what} | {statistics.median(times):.2f} | {max(times):.2f} | {len(times)} |")
    print(f"\nlines in the log: {lines}; memory of the receivers afterwards: {', '.join(f'{m:.0f} MB' for m in held)}")
    shutil.rmtree(small)


@contextmanager
def _job() -> Iterator[None]:
    command = ["nice", "-n", "10", sys.executable, "-c", _JOB]
    with subprocess.Popen(command, env={"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}) as job:
        time.sleep(1.0)
        yield
        job.kill()


def _latencies(running: Running, objects: int) -> list[float]:
    """Send CT slices one after the other over one association."""
    times = []
    with HostileScanner(running.port, "LATENCY", TITLE) as peer:
        connection = peer.associate()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(objects):
            image = peer.image()
            image.Rows = image.Columns = 512
            image.PixelData = bytes(512 * 512 * 2)
            data = encoded(image, implicit=False)
            message = pdu(DATA, pdv(1, 3, store_command(image.SOPInstanceUID))) + _pieces(data)
            begin = time.perf_counter()
            connection.sendall(message)
            answer = read_pdu(connection)
            times.append(time.perf_counter() - begin)
            at = answer.index(b"\0\0\0\x09\x02\0\0\0") + 8
            assert struct.unpack_from("<H", answer, at) == (0,)
            time.sleep(0.02)  # a scanner's pace: the index is not to lag behind
    return times


def _pieces(data: bytes, size: int = 131_072 - 6) -> bytes:
    ends: Sequence[int] = range(0, len(data), size)
    return b"".join(pdu(DATA, pdv(1, 2 if at + size >= len(data) else 0, data[at : at + size])) for at in ends)


def _tiny(running: Running, done: list[int], number: int, count: int) -> None:
    """Open and release associations; one that is turned away is tried again."""
    with HostileScanner(running.port, f"FLOOD{number}", TITLE) as peer:
        while done[number] < count:
            with suppress(OSError), socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
                connection.sendall(peer.request())
                if read_pdu(connection)[:1] == bytes((AC,)):
                    connection.sendall(pdu(RELEASE_RQ, bytes(4)))
                    done[number] += read_pdu(connection)[:1] == bytes((RELEASE_RP,))
