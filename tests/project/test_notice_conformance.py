"""What the conformance statement says of notices is what the code does."""

import re

import pytest
from pydicom.uid import UID

from dicom_io import notices, scp_notices, scu_notices
from dicom_io.contexts import AVAILABILITY, COMMITMENT, PERFORMED_STEP
from dicom_io.limits import LIMITS
from dicom_io.status import Outcome
from node.retry import policy
from tests.project.statement import STATEMENT, section, table

pytestmark = pytest.mark.unit

WORDS = {
    "delivered, the warning": Outcome.DELIVERED_WITH_WARNING,
    "delivered": Outcome.DELIVERED,
    "dead": Outcome.DEAD,
    "sent again": Outcome.RETRY,
    "to N-CREATE: delivered; to N-SET: dead": Outcome.DEAD,
}


def test_bounds_are_named() -> None:
    assert str(LIMITS.read.message_bytes) in section("Notices")
    assert f"dead after {policy()['relay']['refusals']} such answers" in STATEMENT


def test_every_service_is_named_with_its_right() -> None:
    told = {(message, sop_class): right for message, sop_class, _, right in table("Notices", 1)}
    names = {UID(uid).name.removesuffix(" SOP Class"): uid for uid in (PERFORMED_STEP, AVAILABILITY, COMMITMENT)}
    ours: dict[tuple[str, str], set[str]] = {}
    for event, service in scp_notices._SERVICES:
        numbers = "".join(f" {n}" for n in service.numbers)
        message = f"{event.name.removeprefix('EVT_').replace('_', '-')}{', '.join(numbers.split(' '))}"
        ours.setdefault((message.replace(",", "", 1) if numbers else message, service.sop_class), set()).add(
            service.right
        )
    seen = {}
    for (messages, sop_class), right in told.items():
        for message in messages.split(", ") if " " not in messages.replace(", ", ",") else [messages]:
            seen[message, names[sop_class]] = {right}
    assert seen == ours


def test_every_answer_to_a_notice_is_named() -> None:
    assert {int(code, 16) for code, _ in table("Answers to notices")} == {
        int(status) for status in notices.NoticeStatus
    }
    assert f"{notices.MAY_NO_LONGER_BE_UPDATED:04X}" in section("Answers to notices")


def test_every_row_for_the_answer_of_a_ris_is_told() -> None:
    seen: dict[tuple[int, int], Outcome] = {}
    for codes, text in table("What is done with the answer of a RIS"):
        outcome = next((o for words, o in WORDS.items() if text.startswith(words)), None)
        for first, last in re.findall(r"\b([0-9A-F]{4})(?:-([0-9A-F]{4}))?\b", codes):
            assert outcome is not None, text
            seen[int(first, 16), int(last or first, 16)] = outcome
    assert seen == {(row.first, row.last): row.outcome for row in scu_notices.TABLE}
