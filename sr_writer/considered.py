"""What a card says about one series, and what makes two cards two objects."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_io.reason import Reason


@dataclass(frozen=True, slots=True)
class Considered:
    """A series that was looked at, and why it was or was not used."""

    series_instance_uid: str
    reason: Reason


def card_variant(reason: Reason, outcome: str, considered: Sequence[Considered]) -> str:
    """Return everything that a card says: two cards about the same images are one object only if they say the same."""
    said = [outcome, reason.as_json(), [(c.series_instance_uid, c.reason.as_json()) for c in considered]]
    return json.dumps(said, sort_keys=True)
