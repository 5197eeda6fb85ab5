"""Coded reasons: one table of codes and texts per package.

Every outcome other than a result, every quality finding and every refused file carries a reason. Its code is the
contract; its texts are written for the person who reads them, in English and Chinese.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

ReasonClass = Literal["not_applicable", "unable", "error", "note"]
"""``not_applicable``: nothing of its kind here; ``unable``: its kind, but cannot be judged; ``error``: should have
worked; ``note``: said beside a result, for example a quality finding or an accepted series."""

_LANGUAGES: dict[str, dict[str, str]] = tomllib.loads(
    files("dicom_io").joinpath("languages.toml").read_text(encoding="utf-8")
)
LANGUAGES: tuple[str, ...] = tuple(_LANGUAGES)
"""Tags of the languages in which people are spoken to."""
LANGUAGE_CODES: Mapping[str, tuple[str, str]] = {tag: (row["code"], row["meaning"]) for tag, row in _LANGUAGES.items()}
"""Tag to code value and meaning (PS3.16 CID 5000, scheme RFC5646)."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One coded reason with its texts filled in.

    Parameters
    ----------
    code : str
        Lower case words joined by hyphens, unique over all packages.
    klass : ReasonClass
        What sort of reason it is; ``class`` in JSON.
    text : Mapping[str, str]
        Language tag (RFC 5646) to sentence.
    hint : Mapping[str, str]
        Language tag to the next step a person can take; may be empty.
    """

    code: str
    klass: ReasonClass
    text: Mapping[str, str]
    hint: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the reason as the contract's JSON object."""
        return {"code": self.code, "class": self.klass, "text": dict(self.text), "hint": dict(self.hint)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Reason":
        """Read back what `as_json` wrote."""
        return cls(
            data["code"], data["class"], MappingProxyType(dict(data["text"])), MappingProxyType(dict(data["hint"]))
        )


class ReasonTable(Mapping[str, Reason]):
    """The reasons of one package, read from its ``reasons.toml``.

    Each table of that file is one code with ``class``, ``en``, ``zh-CN`` and optionally ``hint.en``, ``hint.zh-CN``;
    texts may hold ``{name}`` fields that are filled in by calling the table.

    Raises
    ------
    ValueError
        If a row lacks a language or has an unknown class: the package is broken.
    """

    def __init__(self, package: str) -> None:
        rows = tomllib.loads(files(package).joinpath("reasons.toml").read_text(encoding="utf-8"))
        self._rows = {code: _row(package, code, row) for code, row in rows.items()}

    def __call__(self, code: str, /, **values: object) -> Reason:
        """Return the reason `code` with `values` put into the fields of its texts."""
        row = self._rows[code]
        filled = {tag: text.format(**values) for tag, text in row.text.items()}
        hints = {tag: text.format(**values) for tag, text in row.hint.items()}
        return Reason(code, row.klass, MappingProxyType(filled), MappingProxyType(hints))

    def __getitem__(self, code: str) -> Reason:
        """Return the row `code` with its fields not yet filled in."""
        return self._rows[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _row(package: str, code: str, row: Mapping[str, Any]) -> Reason:
    if row.get("class") not in get_args(ReasonClass):
        raise ValueError(
            f"{package}/reasons.toml: {code}: class {row.get('class')!r} is none of {get_args(ReasonClass)}"
        )
    missing = [tag for tag in LANGUAGES if not row.get(tag)]
    if missing:
        raise ValueError(f"{package}/reasons.toml: {code}: no text in {', '.join(missing)}")
    text = {tag: row[tag] for tag in LANGUAGES}
    return Reason(
        code, cast("ReasonClass", row["class"]), MappingProxyType(text), MappingProxyType(dict(row.get("hint", {})))
    )
