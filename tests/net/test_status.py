"""The table of C-STORE statuses, row by row."""

import itertools

import pytest

from dicom_io.reasons import REASONS
from dicom_io.status import TABLE, Outcome, judge

pytestmark = pytest.mark.unit

ROWS = [
    (0x0000, Outcome.DELIVERED),
    (0x0001, Outcome.DELIVERED_WITH_WARNING),
    (0x0107, Outcome.DELIVERED_WITH_WARNING),
    (0x0110, Outcome.RETRY),
    (0x0111, Outcome.CHECK),
    (0x0116, Outcome.DELIVERED_WITH_WARNING),
    (0x0117, Outcome.DEAD),
    (0x0122, Outcome.DEAD),
    (0x0124, Outcome.DEAD),
    (0x0210, Outcome.RETRY),
    (0x0211, Outcome.DEAD),
    (0x0212, Outcome.DEAD),
    (0x0213, Outcome.RETRY),
    (0xA700, Outcome.RETRY),
    (0xA7FF, Outcome.RETRY),
    (0xA900, Outcome.DEAD),
    (0xA9FF, Outcome.DEAD),
    (0xB000, Outcome.DELIVERED_WITH_WARNING),
    (0xB006, Outcome.DELIVERED_WITH_WARNING),
    (0xB007, Outcome.DELIVERED_WITH_WARNING),
    (0xC000, Outcome.DEAD),
    (0xCFFF, Outcome.DEAD),
    (0xFE00, Outcome.RETRY),
]
UNKNOWN = [0x0002, 0x0106, 0x0112, 0x0123, 0x0125, 0x0214, 0xA6FF, 0xA800, 0xA8FF, 0xAA00, 0xD000, 0xFF00, 0xFFFF]


@pytest.mark.parametrize(
    ("status", "outcome"), ROWS, ids=lambda value: f"{value:04X}" if isinstance(value, int) else ""
)
def test_each_status_has_its_outcome(status: int, outcome: Outcome) -> None:
    assert judge(status).outcome is outcome


def test_every_row_of_the_table_is_tested() -> None:
    tested = {status for status, _ in ROWS}
    assert all(any(row.first <= status <= row.last for status in tested) for row in TABLE)


def test_rows_ascend_without_overlap() -> None:
    assert all(a.last < b.first for a, b in itertools.pairwise(TABLE))


@pytest.mark.parametrize("status", UNKNOWN, ids=lambda value: f"{value:04X}")
def test_a_status_that_no_row_names_is_tried_again(status: int) -> None:
    assert judge(status).code == "peer-status-unknown"
    assert judge(status).outcome is Outcome.RETRY


def test_no_answer_means_send_again() -> None:
    assert judge(None).outcome is Outcome.RETRY
    assert judge(None).code == "no-answer"


@pytest.mark.parametrize("code", sorted({row.code for row in TABLE if row.code} | {"no-answer", "peer-status-unknown"}))
def test_every_reason_of_the_table_has_texts(code: str | None) -> None:
    assert REASONS(code, status=0xA700).text["zh-CN"]
