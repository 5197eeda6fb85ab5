"""What is read of files to decide about a study, and when."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

import phantom
from config.settings import Peer
from node import facts, stacks
from node.coordinator import Coordinator
from phantom.dicom import save
from tests.node.desk import Desk, changed

pytestmark = pytest.mark.unit


WHO = {"calling": "CT1", "called": "NODE", "peer": "127.0.0.1"}


def states(desk: Desk) -> list[str]:
    with desk.db.read() as c:
        return list(c.exec_driver_sql("SELECT state FROM study").scalars())


def declare(desk: Desk, sends: Literal["study"] | None) -> None:
    """Say what the sender of the desk sends."""
    settings = replace(desk.settings, dicom=replace(desk.settings.dicom, peer=(Peer("CT1", "127.0.0.1", sends=sends),)))
    desk.coordinator = Coordinator(desk.db, desk.folder, settings, desk.now - 1.0)


@pytest.mark.parametrize("whole", [True, False])
def test_headers_are_read_for_continuity_only_where_it_decides(
    desk: Desk, slices: list[Path], monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    declare(desk, "study" if whole else None)
    read: list[Path] = []
    before = stacks.read_instance
    monkeypatch.setattr(stacks, "read_instance", lambda path, *more: (read.append(path), before(path, *more))[1])
    desk.receive(slices)
    desk.after(2.0)
    assert states(desk) == ["closed" if whole else "early"]
    assert len(read) == (0 if whole else len(slices))


@pytest.mark.parametrize(("refused", "state"), [(0, "closed"), (8, "open")])
def test_a_release_proves_nothing_of_an_association_of_which_something_was_refused(
    desk: Desk, slices: list[Path], refused: int, state: str
) -> None:
    declare(desk, "study")
    desk.receive(slices, released=False)
    desk.note("association-released", association="a1", **WHO, **({"refused": refused} if refused else {}))
    desk.after(2.0)
    assert states(desk) == [state]


@pytest.mark.parametrize(("begin", "state"), [(8, "open"), (7, "open"), (0, "closed")])
def test_after_a_broken_association_only_one_that_brings_everything_proves_that_it_was_everything(
    desk: Desk, slices: list[Path], begin: int, state: str
) -> None:
    """The sender may go on behind the image whose answer was lost, and bring that one later still."""
    declare(desk, "study")
    desk.receive(slices[:7], released=False)
    desk.note("association-aborted", association="a1", **WHO)
    desk.receive(slices[begin:])
    desk.after(0.5)
    assert states(desk) == [state]


def test_images_that_come_twice_make_no_whole_study(desk: Desk, slices: list[Path]) -> None:
    declare(desk, "study")
    desk.receive(slices[:4], released=False)
    desk.note("association-aborted", association="a1", **WHO)
    desk.receive([*slices[4:10], *slices[4:10]])
    desk.after(0.5)
    assert states(desk) == ["open"]


@pytest.mark.parametrize("kind", ["association-aborted", "association-released", None])
@pytest.mark.parametrize(("earlier_s", "state"), [(3.0, "open"), (600.0, "closed")])
def test_an_association_that_lost_its_only_image_is_not_forgotten(
    desk: Desk, slices: list[Path], kind: str | None, earlier_s: float, state: str
) -> None:
    """The study of what was not taken is unknown: the sender's next release is no proof for as long as it may come back."""
    declare(desk, "study")
    desk.note("association-open", association="b1", **WHO)
    if kind is not None:
        desk.note(kind, association="b1", refused=1, **WHO)
    desk.after(earlier_s)
    desk.receive(slices[1:])
    desk.after(0.5)
    assert states(desk) == [state]


def test_an_association_without_images_is_no_loss(desk: Desk, slices: list[Path]) -> None:
    declare(desk, "study")
    for kind in ("association-aborted", "association-released"):
        desk.note("association-open", association=kind, **WHO)
        desk.note(kind, association=kind, **WHO)
    desk.receive(slices)
    desk.after(0.5)
    assert states(desk) == ["closed"]


@pytest.mark.parametrize(("begin", "closed"), [(8, False), (0, True)])
def test_after_a_broken_association_the_senders_own_pace_is_not_believed_either(
    desk: Desk, slices: list[Path], tmp_path: Path, begin: int, closed: bool
) -> None:
    """Its pace says how soon it goes on, not how soon it comes back with what it lost."""
    settings = replace(desk.settings, study=replace(desk.settings.study, pace="learn"))
    desk.coordinator = Coordinator(desk.db, desk.folder, settings, desk.now - 1.0)
    for n in range(22):

        def another(dataset: FileDataset, n: int = n) -> None:
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(dataset, keyword, f"{getattr(dataset, keyword)[:50]}.{n}")

        desk.receive(changed(slices[:1], tmp_path / str(n), another))
        desk.after(1800.0)
    desk.receive(slices[:7], released=False)
    desk.note("association-aborted", association="a23", **WHO)
    desk.receive(slices[begin:])
    desk.after(30.0)
    uid = str(dcmread(slices[0]).StudyInstanceUID)
    assert (desk.study(uid).state == "closed") == closed
    desk.after(31.0)
    assert desk.study(uid).state == "closed"


@pytest.fixture(scope="module")
def enhanced(slices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slices as one enhanced CT, in their study."""
    ds = phantom.enhanced(phantom.build(7, matrix=64, slices=24))
    ds.StudyInstanceUID = dcmread(slices[0]).StudyInstanceUID
    return save(ds, tmp_path_factory.mktemp("enhanced") / "enhanced.dcm")


def without_a_frame(ds: FileDataset) -> None:
    size = int(ds.Rows) * int(ds.Columns) * 2
    ds.PixelData = ds.PixelData[: 10 * size] + ds.PixelData[11 * size :]
    ds.PerFrameFunctionalGroupsSequence.pop(10)
    ds.NumberOfFrames -= 1


def test_a_stack_without_gaps_counts_frames(desk: Desk, slices: list[Path], enhanced: Path, tmp_path: Path) -> None:
    desk.receive([*slices, enhanced])
    desk.after(2.0)
    assert states(desk) == ["early"]
    other = Desk(tmp_path / "other")
    try:
        other.receive([*slices, *changed([enhanced], tmp_path, without_a_frame)])
        other.after(2.0)
        assert states(other) == ["open"]
    finally:
        other.stop()


def test_one_enhanced_object_alone_waits_for_the_quiet_time(desk: Desk, enhanced: Path) -> None:
    desk.receive([enhanced])
    desk.after(2.0)
    assert states(desk) == ["open"]
    desk.after(61.0)
    assert states(desk) == ["closed"]


def test_rules_see_what_enhanced_ct_says_in_functional_groups(desk: Desk, enhanced: Path) -> None:
    desk.receive([enhanced])
    uid = str(dcmread(enhanced).StudyInstanceUID)
    (series,) = facts.Gatherer(desk.db, desk.folder, desk.settings).series(desk.study(uid), ())
    assert (series.header.ConvolutionKernel, series.header.SliceThickness, series.header.NumberOfFrames) == (
        "SOFT", dcmread(enhanced).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness, 24,
    )  # fmt: skip
