"""Why something in the folder is not trained on: coded, with texts from ``refusals.toml``."""

import csv
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from dicom_io.reason import LANGUAGES, Reason


@cache
def _texts() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads((files(__package__) / "refusals.toml").read_text(encoding="utf-8"))


class LabelRefused(Exception):  # noqa: N818 - an outcome that the caller writes down
    """A label, or a series, is not used; `code` names the row of ``refusals.toml`` and `values` fill its text."""

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(code)
        self.code = code
        self.text = {tag: _texts()[code][tag].format(**values) for tag in LANGUAGES}


@dataclass(frozen=True, slots=True)
class Refused:
    """One thing that is not used.

    Parameters
    ----------
    item : str
        A file below the folder, or the Series Instance UID.
    code : str
        Why, in one word.
    text : Mapping[str, str]
        Why, in every language.
    """

    item: str
    code: str
    text: Mapping[str, str]

    @classmethod
    def by(cls, item: str, why: LabelRefused | Reason) -> "Refused":
        """Return the refusal of `item`."""
        return cls(item, why.code, why.text)


def write(refused: Iterable[Refused], path: Path) -> None:
    """Write a table: item, code, and one column for each language."""
    with path.open("w", encoding="utf-8", newline="") as opened:
        out = csv.writer(opened)
        out.writerow(["item", "code", *LANGUAGES])
        for one in sorted(refused, key=lambda r: (r.item, r.code)):
            out.writerow([one.item, one.code, *(one.text[tag] for tag in LANGUAGES)])
