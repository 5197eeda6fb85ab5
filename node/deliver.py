"""The deliverer process: one queue, one breaker and one thread per destination, so that none waits for another."""

import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

from config.settings import Settings
from node import child, retry
from node.clock import made, surviving
from node.commitment import Archive, Messenger
from node.courier import Courier
from node.due import Due
from node.installation import DataFolder
from node.nodes import beating, seated
from node.proof import Prover
from node.rejection import Notes
from node.ris import Relayer
from node.store import deliveries, open_database, place_of, proofs

_POLL_S = 0.3


def run_deliverer(settings: Settings, connection: Connection) -> None:
    """Deliver until SIGTERM or the end of the parent; entry point of a spawned process."""
    stop = child.begin(connection)
    folder = DataFolder(settings.node.data_dir)
    db = made("deliverer", lambda: open_database(place_of(settings)), stop)
    if db is None:
        return
    seat = seated(db, "send", stop, settings)  # one queue and one breaker per destination: not two who send at a time
    if seat is None:
        return
    deliveries.interrupted(db, time.time(), owner=seat.owner)
    calling = settings.dicom.ae_titles[0]
    threads: list[threading.Thread] = []
    steps: list[tuple[str, str, Callable[[], bool]]] = []
    owed, doubtful = Due(partial(deliveries.due, db)), Due(partial(proofs.doubtful, db))
    notes = Notes(db, folder, settings)
    for destination in settings.destination:
        courier = Courier(db, folder.path, destination, calling, owner=seat.owner, notes=notes)
        steps.append(("deliver", destination.name, partial(_deliver, owed, destination.name, courier)))
        if destination.kind == "webhook":
            continue  # its answer is the proof
        archive = Archive(db, folder.spool, destination, calling)
        prover = Prover(db, destination, calling, commitment=archive.confirm)
        steps.append(("prove", destination.name, partial(_prove, doubtful, destination.name, prover)))
        if destination.name == settings.commitment.archive:
            messenger = Messenger(db, folder.spool, settings, destination)
            steps += [("ask", destination.name, messenger.ask), ("tell", destination.name, messenger.tell)]
    steps += [("relay", ris.name, Relayer(db, folder.spool, ris, calling).step) for ris in settings.ris]
    for name, place, step in steps:
        thread = threading.Thread(target=keep_at_it, args=(name, step, stop), daemon=True, name=f"{name} {place}")
        thread.start()
        threads.append(thread)

    def upkeep() -> None:
        _ = folder.installation_id  # the storage answers: on a dead mount this hangs, and so does what is to be sent
        deliveries.interrupted(db, time.time(), owner=seat.owner)

    keep = surviving("upkeep", beating(seat, upkeep))
    while db.shared and not stop.wait(float(retry.policy()["nodes"]["seat_s"])):
        keep()
    stop.wait()
    end = time.monotonic() + retry.policy()["process"]["stop_s"] / 2  # what is being sent may arrive
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    seat.close()


def _deliver(owed: Due, name: str, courier: Courier) -> bool:
    return (courier.unsettled or owed(name)) and courier.step()


def _prove(doubtful: Due, name: str, prover: Prover) -> bool:
    return doubtful(name) and prover.step()


def keep_at_it(name: str, step: Callable[[], bool], stop: threading.Event) -> None:
    """Take steps until `stop` is set; rest after one that found nothing to do."""
    busy = True

    def once() -> None:
        nonlocal busy
        busy = False
        busy = step()

    tick = surviving(name, once)
    while not stop.is_set():
        tick()
        if not busy:
            stop.wait(_POLL_S)
