"""What the targets are fed with and where they write: good data sets and files of nobody, and bytes that are nearly those."""

import io
import itertools
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

CT, VERIFICATION, STEP = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1", "1.2.840.10008.3.1.2.3.3"
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    "1.2.3",
    "",
)


MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())  # noqa: S108 - a mkdtemp in it


def scratch_of(pid: int) -> str:
    """Return how the name of a process's scratch folder begins."""
    return f"fuzz-{pid}-"


class Folder:
    """A scratch folder of this process, in memory where there is one."""

    def __init__(self) -> None:
        self._made: Path | None = None

    @property
    def path(self) -> Path:
        if self._made is None:
            self._made = Path(tempfile.mkdtemp(prefix=scratch_of(os.getpid()), dir=MEMORY))
        return self._made

    def put(self, name: str, data: bytes) -> Path:
        path = self.path / name
        path.write_bytes(data)
        return path

    def remove(self) -> None:
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)
            self._made = None


SCRATCH = Folder()


# data sets and files


def dataset(*, nested: bool = True) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 58"]
    ds.SOPClassUID, ds.SOPInstanceUID = CT, "2.25.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.2", "2.25.3"
    ds.PatientID, ds.PatientName, ds.Modality = "P1", "Nobody^At All", "CT"
    ds.StudyDate, ds.PatientSex, ds.PatientAge, ds.SliceThickness = "20260101", "O", "050Y", "1.5"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 1.5], [1, 0, 0, 0, 1, 0]
    if nested:
        item = Dataset()
        item.CodeValue, item.CodeMeaning = "1", "one"
        inner = Dataset()
        inner.PurposeOfReferenceCodeSequence = Sequence([item, item])
        ds.SourceImageSequence = Sequence([inner])
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = bytes(32)
    return ds


def file(syntax: str, *, nested: bool = True) -> bytes:
    ds = dataset(nested=nested)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def files() -> list[bytes]:
    return [file(syntax, nested=nested) for syntax in SYNTAXES[:4] for nested in (True, False)]


def enhanced() -> list[bytes]:
    """Return enhanced CT: uncompressed, and encapsulated with one and with two fragments a frame."""
    ds = dataset(nested=False)
    ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", 3
    shared = Dataset()
    for sequence, keyword, value in (
        ("PixelMeasuresSequence", "PixelSpacing", [1, 1]),
        ("PlaneOrientationSequence", "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]),
        ("CTImageFrameTypeSequence", "FrameType", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]),
        ("FrameAnatomySequence", "AnatomicRegionSequence", []),
    ):
        setattr(shared, sequence, [_item(keyword, value)])
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [
        _item("PlanePositionSequence", [_item("ImagePositionPatient", [0, 0, z])]) for z in (2, 0, 1)
    ]
    out = []
    for syntax, data in (
        (ExplicitVRLittleEndian, bytes(96)),
        (RLELossless, encapsulate([b"ab"] * 3)),
        (JPEG2000Lossless, encapsulate([b"ab\xff\xd9"] * 3, fragments_per_frame=2, has_bot=False)),
    ):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = data
        ds["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
        ds["PixelData"].is_undefined_length = syntax.is_encapsulated
        file_ = io.BytesIO()
        ds.save_as(file_, enforce_file_format=True)
        out.append(file_.getvalue())
    return out


def _item(keyword: str, value: object) -> Dataset:
    item = Dataset()
    setattr(item, keyword, value)
    return item


def mutations(seeds: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield bytes that are nearly `seeds`, the same ones every time."""
    chance = random.Random(zlib.crc32(b"".join(seeds)) + seed)
    odd = (
        b"\0",
        b"\xff" * 4,
        b"\xff\xff",
        b"\x80",
        b"\xfe\xff\x00\xe0",
        b"\xfe\xff\xdd\xe0",
        b"\r\n--b",
        b"\\",
        b'"',
        b"[",
    )
    for _ in itertools.count():
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(7):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    piece = chance.choice(odd)
                    data[at : at + len(piece)] = piece
                case 2:
                    data[at:at] = chance.choice(odd)
                case 3:
                    del data[at : at + chance.choice((1, 2, 4, 50))]
                case 4:
                    del data[at:]
                case 5:
                    other = chance.choice(seeds)
                    data[at:] = other[chance.randrange(len(other) + 1) :]
                case _:
                    data[at:at] = data[at : at + chance.choice((1, 8, 200))] * chance.choice((1, 3))
        yield bytes(data[:65536])
