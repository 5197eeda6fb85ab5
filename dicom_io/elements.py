"""Tolerant access to header values: odd or unreadable values are absent, never an exception."""

import math
import warnings
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue


def value(header: Dataset, keyword: str) -> Any:  # noqa: ANN401 - a DICOM value has no narrower type
    """Return the value of `keyword` as pydicom decodes it, or None if it is absent or cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return header.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises whatever a hostile value makes it raise
        return None


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return every value of `keyword` as stripped text; none if it is absent or empty."""
    found = value(header, keyword)
    if found is None:
        return ()
    parts = found if isinstance(found, (MultiValue, list, tuple)) else (found,)
    out = tuple(str(part).strip().strip("\0").strip() for part in parts)
    return out if any(out) else ()


def text(header: Dataset, keyword: str) -> str:
    r"""Return the values of `keyword` as one text, joined by a backslash; empty if absent."""
    return "\\".join(texts(header, keyword))


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Return every value of `keyword` as a finite number; none at all if one of them is not a number."""
    out = []
    for part in texts(header, keyword):
        try:
            number_ = float(part)
        except ValueError:
            return ()
        if not math.isfinite(number_):
            return ()
        out.append(number_)
    return tuple(out)


def number(header: Dataset, keyword: str) -> float | None:
    """Return the first value of `keyword` as a finite number, or None."""
    found = numbers(header, keyword)
    return found[0] if found else None


def integer(header: Dataset, keyword: str) -> int | None:
    """Return the first value of `keyword` if it is a whole number, else None."""
    found = number(header, keyword)
    return int(found) if found is not None and found == int(found) else None
