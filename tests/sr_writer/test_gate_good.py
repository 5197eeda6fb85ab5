"""None of 500 good objects is refused: every plane, odd sizes, tilt, feet first, six character sets, sources compressed with
loss, with and without findings, every encoding of every profile, and cards.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import JPEGLSNearLossless

import phantom
from dicom_io.model import group
from sr_writer import gate, write
from sr_writer.profiles import Form, Piece, shipped, wanted
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


ENCODED = (
    Form("seg", encoding="fractional", compression="rle"),
    Form("seg", encoding="labelmap", compression="rle"),
    Form("seg", compression="deflated", omit_empty_frames=False),
)
"""What a site may want of a segmentation beside the plain form."""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom remarks on character sets


def good(
    helpers: Any,
    folder: Path,
    seed: int,
    scan: dict[str, Any],
    sender: Sender,
    *,
    lossy: bool,
    overlay: bool,
) -> tuple[Counter[str], list[str]]:
    """Write one study as everything that a profile wants, with and without a result; what it is, and what the gate says against it."""
    phantom.write(phantom.build(seed, slices=20, **scan), folder)
    for path in (folder / "dicom").iterdir():
        ds = pydicom.dcmread(path)
        if lossy:
            ds.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
            ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_14495_1"
            ds.LossyImageCompressionRatio = 3.5
        rename(ds, sender)
        ds.save_as(path)
    case = helpers.from_folder(folder, negative=scan.get("lesions") == "none")
    sources = case.series.instances
    pieces = [p for p in wanted(shipped().values(), result=True) if overlay or p.form.object != "overlay"]
    pieces += [Piece(form) for form in ENCODED]
    written = helpers.write(case, folder / "result", pieces=pieces)
    found = gate.check(written, sources, (), helpers.claim(case))
    outcome: Any = ("not_analysed", "failed")[seed % 2]
    why = helpers.reason("series-too-short", "Too few slices: 20 (at least 40)", "层数过少：20（至少 40）")
    cards = write.write_card(
        why, outcome, group(sources)[0], case.identity, case.options, folder / "card", helpers.now,
        pieces=wanted(shipped().values(), result=False),
    )  # fmt: skip
    found += gate.check(cards, sources)
    kinds = Counter(f"{a.kind} {a.variant}" for a in (*written, *cards))
    return kinds, [f"{scan} {sender.charset}: {r.artifact.name} {r.reason.code} {r.reason.text['en']}" for r in found]


@pytest.mark.unit
@pytest.mark.parametrize("n", range(2))
def test_good_objects_pass(helpers: Any, tmp_path: Path, n: int) -> None:
    scan, sender = SCANS[3 * n + 2], list(SENDERS.values())[3 * n + 2]
    objects, refused = good(helpers, tmp_path, 200 + n, scan, sender, lossy=n == 0, overlay=n == 1)
    assert refused == []
    assert objects.total() >= 18 + 20 * n


@pytest.mark.long
def test_none_of_500_good_objects_is_refused(helpers: Any, tmp_path: Path) -> None:
    total, refused = Counter[str](), []
    for seed, scan in enumerate(SCANS):
        for n, sender in enumerate(SENDERS.values()):
            here = tmp_path / f"{seed}-{n}"
            lossy, overlay = (seed + n) % 5 == 0, seed == n
            kinds, said = good(helpers, here, 300 + 7 * seed + n, scan, sender, lossy=lossy, overlay=overlay)
            total, refused = total + kinds, refused + said
            shutil.rmtree(here)
            print(len(total), total.total(), len(refused))  # noqa: T201 - with -s: how far it is
    assert refused == []
    assert {p.form.object for r in (True, False) for p in wanted(shipped().values(), result=r)} == {
        kind.split()[0] for kind in total
    }
    assert sum(n for kind, n in total.items() if not kind.startswith("overlay")) >= 500, (
        "pictures of slices do not count"
    )
