"""The other side of notices, on real sockets: a RIS and an archive that do what a test tells them; a node without processes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event

from config.settings import Settings
from dicom_io import notices, scu
from dicom_io.contexts import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    NOTICE_SYNTAXES,
    PERFORMED_STEP,
    STORAGE_CLASSES,
    VERIFICATION,
)
from dicom_io.errors import NetworkError
from dicom_io.notices import Reference
from dicom_io.scu_notices import report_commitment
from node.indexer import Indexer
from node.installation import DataFolder
from node.receive import Receiver
from node.store import Database, open_database

CT = "1.2.840.10008.5.1.4.1.1.2"


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def begun(*studies: str) -> Dataset:
    scheduled = [item(StudyInstanceUID=uid) for uid in studies]
    return item(
        ScheduledStepAttributesSequence=scheduled,
        PatientName="Nobody^At All",
        PerformedProcedureStepStatus="IN PROGRESS",
    )


def ended(*images: str, status: str = "COMPLETED") -> Dataset:
    references = [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid) for uid in images]
    series = item(SeriesInstanceUID="2.25.5", ReferencedImageSequence=references)
    return item(PerformedProcedureStepStatus=status, PerformedSeriesSequence=[series])


def _shut(server: Any) -> None:
    if server in server.ae._servers:  # else it has been stopped before
        server.shutdown()


class Scanner:
    """Sends steps to a node, as modalities do: through another library's public calls."""

    def __init__(self, port: int, title: str = "CT1") -> None:
        ae = AE(title)
        ae.add_requested_context(PERFORMED_STEP)
        ae.add_requested_context(COMMITMENT)
        self.association = ae.associate("127.0.0.1", port, ae_title="PACSAINODE")
        assert self.association.is_established

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.association.release()

    def create(self, uid: str, *studies: str) -> int | None:
        status, _ = self.association.send_n_create(begun(*studies or ("2.25.1",)), PERFORMED_STEP, uid)
        return status.get("Status")

    def set(self, uid: str, data: Dataset) -> int | None:
        status, _ = self.association.send_n_set(data, PERFORMED_STEP, uid)
        return status.get("Status")

    def ask(self, transaction_uid: str, *references: Reference) -> int | None:
        data = notices.commitment_request(notices.CommitmentRequest(transaction_uid, references))
        status, _ = self.association.send_n_action(data, 1, COMMITMENT, COMMITMENT_INSTANCE)
        return status.get("Status")


class Ris:
    """A RIS that keeps steps and answers as the next of `script` says: a status, ``abort``, or (at its end) as it should."""

    def __init__(
        self, port: int = 0, classes: tuple[str, ...] = (PERFORMED_STEP,), syntaxes: tuple[str, ...] = NOTICE_SYNTAXES
    ) -> None:
        self.script: list[int | str | tuple[int, int]] = []
        self.heard: list[tuple[str, str, bytes]] = []
        self.steps: dict[str, str] = {}
        ae = AE("RIS")
        for uid in classes:
            ae.add_supported_context(uid, list(syntaxes))
        handlers = [(evt.EVT_N_CREATE, self._create), (evt.EVT_N_SET, self._set)]
        self._server: Any = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        _shut(self._server)

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(kind, uid) for kind, uid, _ in self.heard]

    def _create(self, event: Event) -> tuple[Any, None]:
        uid, data = str(event.request.AffectedSOPInstanceUID), event.request.AttributeList.getvalue()
        return self._answer(event, "create", uid, data, 0x0111 if uid in self.steps else 0), None

    def _set(self, event: Event) -> tuple[Any, None]:
        uid, data = str(event.request.RequestedSOPInstanceUID), event.request.ModificationList.getvalue()
        right: int | tuple[int, int] = 0x0112
        if uid in self.steps:
            right = 0 if self.steps[uid] == "IN PROGRESS" else (0x0110, 0xA506)
        return self._answer(event, "set", uid, data, right), None

    def _answer(self, event: Event, kind: str, uid: str, data: bytes, right: int | tuple[int, int]) -> Any:
        answer = self.script.pop(0) if self.script else right
        self.heard.append((kind, uid, data))
        if answer == "abort":
            event.assoc.abort()
            return 0
        if answer == 0:
            said = notices.decode(data, "1.2.840.10008.1.2").get("PerformedProcedureStepStatus", "IN PROGRESS")
            self.steps[uid] = str(said)
        status = Dataset()
        if isinstance(answer, tuple):
            status.Status, status.ErrorID = answer
        else:
            status.Status = answer
        return status


class Archive:
    """An archive that stores, and commits itself as `mode` says.

    ``new``: reports on a new association; ``same``: on the one of the request; ``silent``: never; ``refuse``: answers
    the request with a failure. `refuses` and `forgets` are SOP Instance UIDs that it reports as failed, or not at all.
    """

    def __init__(self, mode: str = "new", port: int = 0, classes: tuple[str, ...] = (COMMITMENT,)) -> None:
        self.mode = mode
        self.stored: list[str] = []
        self.refuses: set[str] = set()
        self.forgets: set[str] = set()
        self.asked: list[notices.CommitmentRequest] = []
        self.unreported: list[str] = []
        self.report_to = 0
        ae = AE("ARCHIVE")
        for uid in (VERIFICATION, *STORAGE_CLASSES[:100]):
            ae.add_supported_context(uid)
        for uid in classes:
            ae.add_supported_context(uid)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server: Any = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port: int = self._server.server_address[1]
        self._threads: list[threading.Thread] = []

    def wait(self) -> None:
        """Wait until it has nothing more to report."""
        time.sleep(0.02)
        for thread in self._threads:
            thread.join(10)

    def stop(self) -> None:
        self.wait()
        _shut(self._server)

    def result(self, asked: notices.CommitmentRequest) -> tuple[list[Reference], dict[str, int]]:
        named = [r for r in asked.references if r.sop_instance_uid not in self.forgets]
        return named, {r.sop_instance_uid: 0x0112 for r in named if r.sop_instance_uid in self.refuses}

    def report(self, asked: notices.CommitmentRequest) -> None:
        """Report on a new association, as its provider."""
        node = scu.Peer("127.0.0.1", self.report_to, "PACSAINODE", "ARCHIVE")
        try:
            report_commitment(node, asked.transaction_uid, *self.result(asked))
        except NetworkError as error:
            self.unreported.append(error.reason.code)

    def _store(self, event: Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def _action(self, event: Event) -> tuple[int, None]:
        data = notices.decode(event.request.ActionInformation.getvalue(), str(event.context.transfer_syntax))
        asked = notices.read_commitment_request(data)
        self.asked.append(asked)
        if self.mode == "refuse":
            return 0x0122, None
        if self.mode == "new":
            self._later(lambda: self.report(asked))
        if self.mode == "same":
            self._later(lambda: self._here(event, asked))
        return 0, None

    def _here(self, event: Event, asked: notices.CommitmentRequest) -> None:
        references, failed = self.result(asked)
        data = notices.commitment_result(asked.transaction_uid, references, failed)
        event.assoc.send_n_event_report(data, 2 if failed else 1, COMMITMENT, COMMITMENT_INSTANCE)

    def _later(self, work: Callable[[], None]) -> None:
        thread = threading.Timer(0.05, work)
        thread.start()
        self._threads.append(thread)


class Listener:
    """Takes commitment results, as a scanner does; `answers` are the statuses of the next ones."""

    def __init__(self, title: str = "CT1", port: int = 0) -> None:
        self.told: list[notices.CommitmentResult] = []
        self.kinds: list[int] = []
        self.callers: list[str] = []
        self.answers: list[int] = []
        ae = AE(title)
        ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report)]
        self._server: Any = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        _shut(self._server)

    def _report(self, event: Event) -> tuple[int, None]:
        data = notices.decode(event.request.EventInformation.getvalue(), str(event.context.transfer_syntax))
        status = self.answers.pop(0) if self.answers else 0
        if status == 0:
            self.told.append(notices.read_commitment_result(data))
            self.kinds.append(event.request.EventTypeID)
            self.callers.append(str(event.assoc.requestor.ae_title).strip())
        return status, None


class Bench:
    """Receiver, index and clock of a node, without its processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.now = settings, 1_000_000.0
        self.folder = DataFolder(settings.node.data_dir)
        self.folder.prepare()
        self.db: Database = open_database(self.folder.database)
        self.receiver = Receiver(settings)
        self.port = self.receiver.start().port

    @property
    def spool(self) -> Path:
        return self.folder.spool

    def index(self) -> None:
        """Index what has been received: as the coordinator of a node that has just started would."""
        Indexer(self.db, self.folder, self.settings).advance()

    def stop(self) -> None:
        self.receiver.stop(0.2)
        self.db.close()
