"""What the conformance statement says of notices is what the code does."""

import re

import pytest

from dicom_io import contexts, notices, scu_notices
from dicom_io.limits import LIMITS
from dicom_io.status import Outcome
from node.retry import policy
from tests.project.test_documentation import CONFORMANCE, section

pytestmark = pytest.mark.unit

WORDS = {
    "delivered, the warning": Outcome.DELIVERED_WITH_WARNING,
    "delivered": Outcome.DELIVERED,
    "dead": Outcome.DEAD,
    "sent again": Outcome.RETRY,
    "to N-CREATE: delivered; to N-SET: dead": Outcome.DEAD,
}


def test_classes_syntaxes_and_bounds_are_named() -> None:
    for uid in (contexts.PERFORMED_STEP, contexts.AVAILABILITY, contexts.COMMITMENT):
        assert f"| {uid} |" in CONFORMANCE
    listed = re.findall(r"Endian (1\.2\.840\.10008\.[0-9.]*[0-9])", section("Notices"))
    assert tuple(listed) == contexts.NOTICE_SYNTAXES
    assert str(LIMITS.read.message_bytes) in section("Notices")
    assert f"dead after {policy()['relay']['refusals']} such answers" in CONFORMANCE


def test_every_answer_to_a_notice_is_named() -> None:
    listed = re.findall(r"^\| ([0-9A-F]{4}) \|", section("Answers to notices"), re.MULTILINE)
    assert {int(code, 16) for code in listed} == {int(status) for status in notices.NoticeStatus}
    assert f"{notices.MAY_NO_LONGER_BE_UPDATED:04X}" in section("Answers to notices")


def test_every_row_for_the_answer_of_a_ris_is_told() -> None:
    seen: dict[tuple[int, int], Outcome] = {}
    table = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section("What is done with the answer of a RIS"), re.MULTILINE)
    for codes, text in table:
        outcome = next((o for words, o in WORDS.items() if text.startswith(words)), None)
        for first, last in re.findall(r"\b([0-9A-F]{4})(?:-([0-9A-F]{4}))?\b", codes):
            assert outcome is not None, text
            seen[int(first, 16), int(last or first, 16)] = outcome
    assert seen == {(row.first, row.last): row.outcome for row in scu_notices.TABLE}
