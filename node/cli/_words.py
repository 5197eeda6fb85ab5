"""How commands speak to a person: aligned columns, local time, the language of the installation.

Nothing depends on the terminal: no colours, no cutting; a Chinese character takes two cells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

if TYPE_CHECKING:
    from config import Settings

_SPANS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def columns(rows: Iterable[Sequence[str]], head: Sequence[str] = (), indent: int = 2) -> list[str]:
    """Return rows as lines whose columns are aligned; a column that is empty in every row is left out."""
    table = [list(row) for row in rows]
    if not table:
        return []
    filled = [k for k in range(len(table[0])) if any(row[k] for row in table)]
    shown = [[row[k] for k in filled] for row in ([head] if head else []) + table]
    widths = [max(cell_len(row[k]) for row in shown) for k in range(len(filled))]
    return [
        (
            " " * indent + "  ".join(cell + " " * (w - cell_len(cell)) for cell, w in zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]


def span(seconds: float) -> str:
    """Return a duration in its two largest units: ``2 h 5 min``."""
    left = round(abs(seconds))
    parts: list[str] = []
    for name, unit in _SPANS:
        count, left = divmod(left, unit)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2])


def size(count: float) -> str:
    """Return bytes as decimal gigabytes or megabytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


@dataclass(frozen=True, slots=True)
class Words:
    """For one reader at one time.

    Parameters
    ----------
    language : str
        Of reasons and hints; what has no such text is said in English.
    now : datetime
        The time, aware of its zone.
    zone : tzinfo or None
        Of the reader; None: this machine's.
    """

    language: str
    now: datetime
    zone: tzinfo | None = None

    def text(self, texts: Mapping[str, str] | str | None) -> str:
        """Return the text in the reader's language."""
        if texts is None or isinstance(texts, str):
            return texts or ""
        return texts.get(self.language) or texts.get("en", "")

    def reason(self, reason: Mapping[str, Any] | None, indent: int = 4) -> list[str]:
        """Return what a reason says and, below, what to do."""
        if not reason:
            return []
        lines = (self.text(reason.get("text")) or reason["code"], self.text(reason.get("hint")))
        return [" " * (indent + 2 * k) + line for k, line in enumerate(lines) if line]

    def time(self, utc: str | None) -> str:
        """Return a UTC time stamp as local time, with its date unless that is today."""
        if utc is None:
            return ""
        at = datetime.fromisoformat(utc).astimezone(self.zone)
        today = at.date() == self.now.astimezone(self.zone).date()
        return at.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")

    def until(self, utc: str | None) -> str:
        """Return a UTC time stamp as local time and how far away it is: ``10:02:11 (in 40 s)``."""
        if utc is None:
            return ""
        away = (datetime.fromisoformat(utc) - self.now).total_seconds()
        return f"{self.time(utc)} ({'in ' + span(away) if away > 0 else 'now'})"

    def since(self, utc: str | None) -> str:
        """Return how long ago a UTC time stamp was."""
        return "" if utc is None else span(self.age(utc))

    def age(self, utc: str) -> float:
        """Return how long ago a UTC time stamp was, in seconds."""
        return (self.now - datetime.fromisoformat(utc)).total_seconds()

    def zone_name(self) -> str:
        """Return the zone that times are told in."""
        return self.now.astimezone(self.zone).tzname() or "local time"


def words(settings: "Settings") -> Words:
    """Return the words for whoever stands before this machine now."""
    return Words(settings.node.languages[0], datetime.now().astimezone())
