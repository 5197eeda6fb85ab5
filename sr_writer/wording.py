"""How a language counts and writes numbers: plurals and decimals by the Unicode CLDR, from Babel."""

from decimal import Decimal
from functools import cache

from babel import Locale
from babel.numbers import format_decimal


@cache
def _locale(language: str) -> Locale:
    return Locale.parse(language, sep="-")


def plural(count: int, language: str) -> str:
    """Return the CLDR plural category of `count`: ``one``, ``other`` ..."""
    return str(_locale(language).plural_form(count))


def plurals(language: str) -> frozenset[str]:
    """Return every plural category that `language` has."""
    return frozenset(_locale(language).plural_form.tags) | {"other"}


def decimal(value: float, places: int, language: str) -> str:
    """Return a number with `places` decimals as `language` writes it, without grouping of digits and never as minus zero."""
    rounded = Decimal(
        f"{value:z.{places}f}"
    )  # as Python rounds, not as Babel would: half of a repr is no half of the value
    pattern = "0." + "0" * places if places else "0"
    return str(format_decimal(rounded, pattern, _locale(language)))
