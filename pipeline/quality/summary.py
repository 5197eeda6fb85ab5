"""What a grade says in one or two sentences."""

import tomllib
from functools import cache
from importlib.resources import files

from dicom_io.reason import LANGUAGES
from pipeline.result import Quality


@cache
def _texts() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = tomllib.loads(
        files("pipeline.quality").joinpath("texts.toml").read_text(encoding="utf-8")
    )
    return table


def summary(quality: Quality) -> dict[str, str]:
    """Return the grade in words, the alarms whole and the remarks counted, per language tag."""
    said = _texts()
    alarms = [f for f in quality.findings if f.grade in ("C", "D")]
    out = {}
    for tag in LANGUAGES:
        parts = [said["grade"][tag].format(grade=quality.grade, meaning=said[quality.grade][tag])]
        parts += [f.reason.text[tag] for f in alarms]
        remarks = len(quality.findings) - len(alarms)
        parts += [said["remarks"][tag].format(count=remarks)] if remarks else []
        out[tag] = said["joint"][tag].join(parts)
    return out
