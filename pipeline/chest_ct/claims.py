"""What the grade of the images lets this pipeline claim; which finding forbids what stands in ``quality.toml``."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from dicom_io.reason import Reason
from pipeline.chest_ct.parameters import QUALITY_FILE
from pipeline.errors import NotAnalysed
from pipeline.quality.grade import Limit, Measured, table
from pipeline.reasons import REASONS
from pipeline.result import Quality

_PACKAGE = "pipeline.chest_ct"


@cache
def _claims() -> Mapping[str, Any]:
    claims: Mapping[str, Any] = tomllib.loads(files(_PACKAGE).joinpath(QUALITY_FILE).read_text(encoding="utf-8"))[
        "claim"
    ]
    return claims


def allowed(measures: Mapping[str, Measured]) -> dict[str, Measured]:
    """Return those measures of ``ct_quality`` that this pipeline's grade rests on, too.

    Raises
    ------
    NotAnalysed
        If images with them must not be analysed at all: a finding of grade D that makes every number meaningless.
    """
    found = {name: m for name, m in measures.items() if name in _claims()["shared"]}
    for limit in limits():
        m, code = found.get(limit.measure), _claims()["forbids"].get(limit.code)
        if code is not None and m is not None and limit.grade == "D" and limit.passed(m.value):
            raise NotAnalysed(REASONS(code, value=f"{m.value:.3g}"))
    return found


def limits() -> tuple[Limit, ...]:
    """Return this pipeline's limits, and those of ``ct_quality`` for what is shared and has none here."""
    own = table(_PACKAGE, QUALITY_FILE)
    named = {row.measure for row in own}
    more = table("pipeline.quality.ct", "limits.toml")
    return (*own, *(row for row in more if row.measure in _claims()["shared"] and row.measure not in named))


def sides(graded: Quality) -> Reason | None:
    """Return why left and right cannot be told apart, or None if nothing speaks against it."""
    return next((f.reason for f in graded.findings if f.reason.code in _claims()["sides"]), None)
