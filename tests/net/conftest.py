"""Small CT slices, a receiver on a free port, and a peer that can say anything on an association."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from config.settings import Dicom, Node, Settings
from node.receive import Receiver
from node.spool import journals, read_journal

CT = "1.2.840.10008.5.1.4.1.1.2"
_numbers = itertools.count(1)


def slice_dataset(**values: Any) -> Dataset:
    """Return a CT slice of 16 x 16 pixels under a new SOP Instance UID; `values` replace or (None) remove elements."""
    ds = Dataset()
    ds.SOPClassUID = CT
    ds.SOPInstanceUID = f"2.25.{next(_numbers)}"
    ds.StudyInstanceUID = "2.25.900"
    ds.SeriesInstanceUID = "2.25.901"
    ds.PatientID = "P1"
    ds.PatientName = "Nobody^At All"
    ds.AccessionNumber = "A1"
    ds.Modality = "CT"
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = bytes(16 * 16 * 2)
    for keyword, value in values.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


@pytest.fixture
def make_slice() -> Callable[..., Dataset]:
    return slice_dataset


@pytest.fixture
def write_slice(tmp_path: Path) -> Callable[..., Path]:
    """Write a slice to a file of its own; return the path."""

    def write(syntax: str = ExplicitVRLittleEndian, **values: Any) -> Path:
        ds = slice_dataset(**values)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / f"source-{ds.SOPInstanceUID}-{next(_numbers)}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def encode() -> Callable[[Dataset], bytes]:
    """Encode a data set as Explicit VR Little Endian."""

    def bytes_of(ds: Dataset) -> bytes:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        return buffer.getvalue()

    return bytes_of


class Listening:
    """A receiver of this process and what it wrote."""

    def __init__(self, receiver: Receiver, data_dir: Path) -> None:
        self.receiver, self.data_dir = receiver, data_dir
        self.server = receiver.start()
        self.port = self.server.port

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for path in journals(self.data_dir) for record in read_journal(path)[0]]

    @property
    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.records]

    def instances(self) -> list[dict[str, Any]]:
        return [record for record in self.records if "sop" in record]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    """Start receivers on free ports of the loopback; they stop with the test."""
    started: list[Receiver] = []

    def start(data_dir: Path = tmp_path / "data", **dicom: Any) -> Listening:
        receiver = Receiver(Settings(node=Node(data_dir=data_dir), dicom=Dicom(port=0, **dicom)))
        started.append(receiver)
        return Listening(receiver, data_dir)

    yield start
    for receiver in started:
        receiver.stop(grace_s=0.2)


class Talker:
    """An association on which C-STORE requests need not be sane."""

    def __init__(self, association: Any) -> None:
        self.association = association

    def store(self, data: bytes | None, sop_class: str = CT, sop_instance: str = "2.25.1") -> int | None:
        """Send `data` under these UIDs; return the status, or None if no answer came."""
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 2
        request.AffectedSOPClassUID = sop_class
        request.AffectedSOPInstanceUID = sop_instance
        request.DataSet = BytesIO(data) if data is not None else None
        association = self.association
        context = association.accepted_contexts[0].context_id
        association._reactor_checkpoint.clear()
        wait_for(lambda: association._is_paused)
        association.dimse.send_msg(request, context)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return None if response is None else response.Status


@pytest.fixture
def talk() -> Callable[..., Any]:
    """Open an association with one context; a context manager."""

    @contextmanager
    def opened(
        port: int,
        abstract: str = CT,
        syntaxes: list[str] | None = None,
        called: str = "PACSAINODE",
        calling: str = "SENDER",
    ) -> Iterator[Talker]:
        ae = AE(calling)
        ae.acse_timeout = ae.dimse_timeout = 20
        ae.add_requested_context(abstract, syntaxes or [ExplicitVRLittleEndian])
        association = ae.associate("127.0.0.1", port, ae_title=called)
        try:
            yield Talker(association)
        finally:
            if association.is_established:
                association.release()

    return opened


def wait_for(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait until `condition` holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not come true in time"
        time.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_for
