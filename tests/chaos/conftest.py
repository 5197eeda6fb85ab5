"""The node, the small PACS and the phantom of `tests/node`, and the oracle over both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_io.read import digest_dataset
from tests.chaos import oracle
from tests.node.conftest import Rig, ct, make_rig, radiographs, rig

__all__ = ["Rig", "ct", "make_rig", "radiographs", "rig"]


@pytest.fixture
def acknowledged() -> Callable[[Sequence[Path]], list[oracle.Acknowledged]]:
    """What a sender knows of files that were all answered with success."""

    def rows(files: Sequence[Path]) -> list[oracle.Acknowledged]:
        headers = [dcmread(f, stop_before_pixels=True) for f in files]
        return [
            oracle.Acknowledged(str(h.SOPInstanceUID), str(h.StudyInstanceUID), str(h.PatientID), digest_dataset(f))
            for h, f in zip(headers, files, strict=True)
        ]

    return rows


@pytest.fixture
def judge(acknowledged: Callable[..., Any]) -> Callable[..., list[str]]:
    """Say what is wrong with a rig after these files were acknowledged."""

    def faults(rig: Rig, files: Sequence[Path]) -> list[str]:
        found = oracle.facts(rig.data, rig.pacs.folder, acknowledged(files))
        return [f"{fault.kind}: {fault.what}" for fault in oracle.judge(found)]

    return faults


@pytest.fixture
def copies(ct: list[Path], tmp_path: Path) -> Callable[..., list[Path]]:
    """Write the middle of the phantom once more, as study number `n` of a patient of its own."""

    def make(n: int, slices: int = 12) -> list[Path]:
        folder = tmp_path / f"study{n}"
        folder.mkdir(exist_ok=True)
        files = []
        for k, file in enumerate(ct[26 : 26 + slices]):
            ds = dcmread(file)
            ds.PatientID, ds.AccessionNumber = f"P{n}", f"A{n}"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{n}", f"1.2.3.{n}.1"
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{n}.1.{k + 1}"
            files.append(folder / f"{k:03}.dcm")
            ds.save_as(files[-1])
        return files

    return make
