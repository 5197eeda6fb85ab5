"""None of 500 good objects is refused: every plane, odd sizes, tilt, feet first, six character sets, with and without findings."""

from pathlib import Path
from typing import Any

import pydicom
import pytest

import phantom
from sr_writer import gate
from tests.sr_writer.authored import rename
from tests.sr_writer.matrix import SENDERS, Sender

SCANS: list[dict[str, Any]] = [
    {"plane": "axial", "matrix": (72, 81)},
    {"plane": "axial", "matrix": 64, "feet_first": True, "lesions": "none"},
    {"plane": "axial", "matrix": 64, "tilt_deg": 14.0},
    {"plane": "coronal", "matrix": (64, 83)},
    {"plane": "sagittal", "matrix": 64, "shuffle": True},
    {"plane": "oblique", "matrix": (70, 64)},
]


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom remarks on character sets


def good(helpers: Any, folder: Path, seed: int, scan: dict[str, Any], sender: Sender) -> tuple[int, list[str]]:
    """Write one study as everything there is; how many objects that is, and what the gate says against them."""
    phantom.write(phantom.build(seed, slices=20, **scan), folder)
    for path in (folder / "dicom").iterdir():
        ds = pydicom.dcmread(path)
        rename(ds, sender)
        ds.save_as(path)
    case = helpers.from_folder(folder, negative=scan.get("lesions") == "none")
    artifacts = helpers.everything(case, folder / "out")
    found = gate.check(artifacts, case.series.instances, (), helpers.claim(case))
    return len(artifacts), [
        f"{scan} {sender.charset}: {r.artifact.name} {r.reason.code} {r.reason.text['en']}" for r in found
    ]


@pytest.mark.unit
@pytest.mark.parametrize("n", range(3))
def test_good_objects_pass(helpers: Any, tmp_path: Path, n: int) -> None:
    objects, refused = good(helpers, tmp_path, 200 + n, SCANS[2 * n + n % 2], list(SENDERS.values())[5 - 2 * n])
    assert refused == []
    assert objects > 20


@pytest.mark.long
def test_none_of_500_good_objects_is_refused(helpers: Any, tmp_path: Path) -> None:
    total, refused = 0, []
    for seed, scan in enumerate(SCANS):
        for n, sender in enumerate(SENDERS.values()):
            objects, said = good(helpers, tmp_path / f"{seed}-{n}", 300 + 7 * seed + n, scan, sender)
            total, refused = total + objects, refused + said
    assert refused == []
    assert total >= 500
