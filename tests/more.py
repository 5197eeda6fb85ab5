"""Repetitions: what a test shows once with every run, it shows at other points with `make chaos-more`."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def more(*values: Any) -> Any:
    """Mark the parameters of one repetition."""
    return pytest.param(*values, marks=pytest.mark.long)


def once(always: Iterable[tuple[Any, ...]], *axes: Iterable[Any]) -> list[Any]:
    """Return all combinations of `axes`: those of `always` as they are, the others marked."""
    kept = list(always)
    return [one if one in kept else more(*one) for one in product(*axes)]


ON_FILES_FIRST = pytest.mark.parametrize("back_end", ["sqlite", more("postgresql")], indirect=True)
"""For tests of what stands above the store; its own contract is `tests/node/test_rows.py` and the like."""
