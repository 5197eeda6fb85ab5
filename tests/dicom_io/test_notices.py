"""Notices as data sets: what is read of them, and that no bytes whatever bring a reader down."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_io import notices
from dicom_io.errors import UnreadableError
from dicom_io.notices import Reference, Step, fault, read_availability, read_commitment_request, read_step
from dicom_io.scp_types import NoticeKind

pytestmark = pytest.mark.unit

CT = "1.2.840.10008.5.1.4.1.1.2"
KINDS: tuple[NoticeKind, ...] = ("mpps-create", "mpps-set", "ian", "commit-request", "commit-result")
SYNTAXES = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian))


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def through(ds: Dataset, syntax: str = SYNTAXES[0]) -> Dataset:
    """Return a data set as the other side of an association reads it."""
    return notices.decode(notices.encode(ds, syntax), syntax)


def image(uid: str) -> Dataset:
    return item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_step_of_two_studies_and_two_series(syntax: str) -> None:
    first = item(SeriesInstanceUID="2.1", ReferencedImageSequence=[image("3.1"), image("3.2"), image("3.1")])
    second = item(
        SeriesInstanceUID="2.2", ReferencedImageSequence=[],
        ReferencedNonImageCompositeSOPInstanceSequence=[image("3.3")],
    )  # fmt: skip
    ds = item(
        ScheduledStepAttributesSequence=[item(StudyInstanceUID=u) for u in ("1.1", "1.2", "1.1")],
        PerformedProcedureStepStatus="DISCONTINUED", PerformedSeriesSequence=[first, second],
    )  # fmt: skip
    read = read_step(through(ds, syntax))
    assert read == Step("DISCONTINUED", ("1.1", "1.2"), (("2.1", "3.1"), ("2.1", "3.2"))), "images only"


def test_an_empty_step_says_nothing() -> None:
    assert read_step(Dataset()) == Step(None, (), ())


ODD: list[Callable[[], Dataset]] = [
    lambda: item(PerformedSeriesSequence=[item(ReferencedImageSequence=[item()])]),
    lambda: item(
        PerformedSeriesSequence=[item(ReferencedImageSequence=[item(ReferencedSOPInstanceUID=["1.2", "1.3"])])]
    ),
    lambda: item(PerformedSeriesSequence=[item(ReferencedImageSequence=[item(ReferencedSOPInstanceUID="1" * 65)])]),
    lambda: item(ScheduledStepAttributesSequence=[item(StudyInstanceUID=["1.2", "1.3"])]),
    lambda: item(ScheduledStepAttributesSequence=[item(StudyInstanceUID="")]),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about values that are odd on purpose
@pytest.mark.parametrize("make", ODD)
def test_odd_references_are_absent(make: Callable[[], Dataset]) -> None:
    read = read_step(through(make()))
    assert (read.studies, read.instances) == ((), ())


def test_a_sequence_that_is_none() -> None:
    ds = Dataset()
    ds.add_new(0x00400270, "LO", "scheduled")
    ds.add_new(0x00400252, "CS", "IN PROGRESS")
    plain = notices.encode(ds, SYNTAXES[1])
    try:
        read = notices.decode(plain, SYNTAXES[1])
    except UnreadableError:
        return
    assert fault("mpps-create", read) == notices.NoticeStatus.MISSING_ATTRIBUTE


def test_references_and_availability() -> None:
    asked = notices.CommitmentRequest("1.9", (Reference(CT, "3.1"), Reference(CT, "3.2")))
    assert read_commitment_request(through(notices.commitment_request(asked))) == asked
    series = item(SeriesInstanceUID="2.1", ReferencedSOPSequence=[image("3.1")])
    read = read_availability(through(item(StudyInstanceUID="1.1", ReferencedSeriesSequence=[series])))
    assert (read.study, read.instances) == ("1.1", (("2.1", "3.1"),))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_holds_the_bytes_as_they_came(syntax: str, tmp_path: Any) -> None:
    data = notices.encode(item(PatientName="A^B", PerformedProcedureStepStatus="IN PROGRESS"), syntax)
    content = notices.part10(CT, "1.2.3", syntax, data)
    assert content == notices.part10(CT, "1.2.3", syntax, data)
    path = tmp_path / "notice.dcm"
    path.write_bytes(content)
    assert notices.data_of(path) == data
    read = notices.read_notice(path)
    assert (read.PatientName, read.file_meta.TransferSyntaxUID) == ("A^B", syntax)  # type: ignore[attr-defined]
    path.unlink()
    with pytest.raises(UnreadableError):
        notices.read_notice(path)


WHOLE = notices.encode(
    item(
        ScheduledStepAttributesSequence=[item(StudyInstanceUID="1.1")], PerformedProcedureStepStatus="IN PROGRESS",
        PerformedSeriesSequence=[item(SeriesInstanceUID="2.1", ReferencedImageSequence=[image("3.1")])],
        ReferencedSOPSequence=[image("3.1")], TransactionUID="1.9",
        FailedSOPSequence=[item(ReferencedSOPInstanceUID="3.2", FailureReason=274)],
    ),
    SYNTAXES[0],
)  # fmt: skip


def judged(data: bytes, syntax: str) -> None:
    """Read bytes as every kind of notice: a value or `UnreadableError`, and nothing else."""
    try:
        ds = notices.decode(data, syntax)
    except UnreadableError:
        return
    for kind in KINDS:
        fault(kind, ds)
    read_step(ds)
    read_availability(ds)
    read_commitment_request(ds)
    notices.read_commitment_result(ds)


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
@settings(max_examples=200, deadline=None)
def test_no_bytes_bring_a_reader_down(data: bytes, syntax: str) -> None:
    judged(data, syntax)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.integers(0, len(WHOLE)))
@settings(max_examples=300, deadline=None)
def test_no_damage_brings_a_reader_down(place: int, value: int, end: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] = value
    judged(bytes(damaged), SYNTAXES[0])
    judged(WHOLE[:end], SYNTAXES[0])


def test_deep_nesting_is_refused() -> None:
    down, up = bytes.fromhex("40004003fffffffffeff00e0ffffffff"), bytes.fromhex("feff0de000000000feffdde000000000")
    assert read_step(notices.decode(down * 20 + up * 20, SYNTAXES[0])) == Step(None, (), ())
    with pytest.raises(UnreadableError):
        notices.decode(down * 400 + up * 400, SYNTAXES[0])
