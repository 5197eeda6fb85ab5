"""What SQLite and PostgreSQL write differently, so that one statement serves both.

Text is ordered by its code points, holds neither NUL nor lone surrogates (PostgreSQL takes neither), and numbers of rows and
bytes have 64 bits, on both.
"""

import json
import re
from typing import Any

import sqlalchemy as sa

# its ON CONFLICT clause is the one that SQLite has taken over, and compiles for both
from sqlalchemy.dialects.postgresql import insert

__all__ = ["Big", "Text", "dumps", "insert", "larger"]

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")

Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A row's number, or a number of bytes. SQLite's integers always have 64 bits, and only ``INTEGER`` counts up by itself."""


class Text(sa.types.TypeDecorator[str]):
    """Text that both databases take and order alike; what no text may hold becomes U+FFFD."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type: on PostgreSQL one whose order is that of SQLite, whatever the server's language is."""
        return dialect.type_descriptor(sa.Text(collation="C") if dialect.name == "postgresql" else sa.String())

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Return `value` as it can be stored, and looked up again."""
        del dialect
        return value if value is None or (value.isascii() and "\0" not in value) else _NOT_TEXT.sub("\ufffd", value)


def dumps(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Return `value` as JSON that both databases can read again.

    Raises
    ------
    ValueError
        If it holds a number that JSON does not have (NaN, infinity).
    """
    text = json.dumps(value, allow_nan=False)
    if "\\u0000" in text or "\\ud" in text:  # the latter also begins what stands for a character beyond the 65,536th
        text = json.dumps(_clean(value), allow_nan=False)
    return text


def _clean(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, str):
        return _NOT_TEXT.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def larger(a: sa.ColumnElement[float], b: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """Return the larger one of two numbers (``max`` on SQLite, ``GREATEST`` on PostgreSQL)."""
    return sa.case((a > b, a), else_=b)
