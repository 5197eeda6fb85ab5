"""The codes, labels and colours of ``codes.toml`` and the texts of ``texts.toml``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydicom.dataset import Dataset

from pipeline.result import Code
from sr_writer.wording import plural

_TABLE: dict[str, Any] = tomllib.loads(files("sr_writer").joinpath("codes.toml").read_text(encoding="utf-8"))
_TEXTS: dict[str, dict[str, str | dict[str, str]]] = tomllib.loads(
    files("sr_writer").joinpath("texts.toml").read_text(encoding="utf-8")
)

DESIGNATOR: str = _TABLE["scheme"]["designator"]
SCHEME_VERSION: str = _TABLE["scheme"]["version"]
FINDING_COLOURS: tuple[tuple[int, int, int], ...] = tuple((r, g, b) for r, g, b in _TABLE["palette"]["findings"])
CONCEPTS: tuple[str, ...] = tuple(_TABLE["concept"])
QUESTIONS = ("pneumonia_pattern", "co_rads", "rsna_consensus")
"""What can be suggested about."""
RULES: tuple[str, ...] = tuple(c for c in CONCEPTS if c.startswith("rule_") and c != "rule_limit")
PRESENCE: Mapping[str, str] = _TABLE["presence"]
"""Measurement of the whole lungs to the concept that is present where it is not zero."""
_MEANINGS: dict[tuple[str, str], Mapping[str, str]] = {
    **{(DESIGNATOR, row["value"]): row for row in _TABLE["concept"].values()},
    **{(scheme, value): row for scheme, rows in _TABLE["meaning"].items() for value, row in rows.items()},
}


@dataclass(frozen=True, slots=True)
class Term:
    """A measurement name: its code, its label and its head of a column per language, how many decimals a person wants."""

    code: Code
    label: Mapping[str, str]
    short: Mapping[str, str]
    decimals: int


def concept(name: str) -> Code:
    """Return the private code called `name` in ``codes.toml``."""
    row = _TABLE["concept"][name]
    return Code(row["value"], DESIGNATOR, row["en"])


def concept_label(name: str, language: str) -> str:
    """Return what the private code `name` means, for people."""
    return str(_TABLE["concept"][name][language])


def quality_finding(reason: str) -> Code | None:
    """Return the concept of a finding about the images, by the code of its reason; None if it has none."""
    name = "quality_" + reason.replace("-", "_")
    return concept(name) if name in _TABLE["concept"] else None


def standard_quality(reason: str) -> Code | None:
    """Return the standard code (CID 6135) of a finding about the images, by the code of its reason; None without one."""
    row = _TABLE["standard_quality"].get(reason)
    return None if row is None else Code(*row)


def title_modifier(reason: str) -> Code | None:
    """Return why images are bad as a code that key images may have (CID 7011); None where none says it."""
    code = standard_quality(reason)
    return code if code is not None and code.scheme == "DCM" else None


def answer(question: str, given: str) -> Code:
    """Return the code of an answer to what is suggested."""
    for table in (question, "undetermined"):
        if (row := _TABLE["answer"].get(table, {}).get(given)) is not None:
            return Code(*row)
    return concept(f"{question}_{given}")


def speaks(word: str) -> Code:
    """Return the code of what a rule speaks for: ``for``, ``against``, ``neither`` or ``unknown``."""
    return answer("undetermined", "undetermined") if word == "unknown" else concept(f"speaks_{word}")


def grades_images(pipeline: str) -> bool:
    """Whether `pipeline` says how good images are, and nothing else."""
    return bool(_TABLE["pipeline"].get(pipeline, {}).get("grades_images", False))


def meaning(code: Dataset, language: str) -> str | None:
    """Return what an item of a code sequence means in `language`; None if the tables do not say."""
    row = _MEANINGS.get((str(code.get("CodingSchemeDesignator")), str(code.get("CodeValue"))), {})
    return row.get(language)


def localise(ds: Dataset, language: str) -> None:
    """Write the meaning of every code in `ds` in `language`, where the tables say it."""
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                if said := meaning(item, language):
                    item.CodeMeaning = said
                localise(item, language)


def measurement(name: str) -> Term:
    """Return how the measurement `name` of a result is coded.

    Raises
    ------
    ValueError
        If ``codes.toml`` has no row for it: a number without a code must not leave.
    """
    row = _TABLE["measurement"].get(name)
    if row is None:
        raise ValueError(f"sr_writer/codes.toml: no [measurement.{name}]; add one with its code")
    code = concept(row["code"]) if isinstance(row["code"], str) else Code(*row["code"])
    return Term(code, row, row.get("short", row), row["decimals"])


def unit(ucum: str) -> Code:
    """Return the UCUM unit as a code; one that the table does not have is its own meaning."""
    return Code(ucum, "UCUM", _TABLE["unit"].get(ucum, [ucum])[0])


def unit_sign(ucum: str) -> str:
    """Return how a picture shows a unit."""
    return str(_TABLE["unit"].get(ucum, [ucum, ucum])[1])


def procedure(pipeline: str) -> Code:
    """Return the imaging procedure that `pipeline` analyses."""
    return Code(*_TABLE["procedure"].get(pipeline, _TABLE["procedure"]["other"]))


def assessment(grade: str) -> Code:
    """Return the standard quality assessment (CID 7036) of a grade."""
    return Code(*_TABLE["assessment"][grade])


def site_label(site: str, language: str) -> str:
    """Return a site's name for people; sites without a row are spelt out."""
    return str(_TABLE["site"].get(site, {}).get(language, site.replace("_", " ")))


def in_picture(site: str) -> bool:
    """Whether the table of the summary picture, which has room for some, has a row for `site`."""
    return bool(_TABLE["site"].get(site, {}).get("in_picture", True))


def site_modifier(site: str) -> Code | None:
    """Return what narrows the anatomy of `site`, for example its upper third."""
    name = _TABLE["site"].get(site, {}).get("modifier")
    return None if name is None else concept(name)


def pipeline_label(pipeline: str, language: str) -> str:
    """Return a pipeline's name for people."""
    return str(_TABLE["pipeline"].get(pipeline, {}).get(language, pipeline))


def site_colour(site: str) -> tuple[int, int, int]:
    """Return the colour of a region: by its side."""
    side = "left" if site.startswith("left") else "right" if site.startswith("right") else "other"
    r, g, b = _TABLE["palette"][side]
    return r, g, b


def text(name: str, language: str, /, **values: object) -> str:
    """Return the text `name` of ``texts.toml`` in `language` with its fields filled in; one with plurals by its `count`."""
    row = _TEXTS[name][language]
    if not isinstance(row, str):
        row = row[plural(int(str(values["count"])), language)]
    return row.format(**values)


def coding_scheme_item() -> Dataset:
    """Return the Coding Scheme Identification Sequence (0008,0110) item of the private scheme."""
    scheme = _TABLE["scheme"]
    item = Dataset()
    item.CodingSchemeDesignator = scheme["designator"]
    item.CodingSchemeUID = scheme["uid"]
    item.CodingSchemeName = scheme["name"]
    item.CodingSchemeVersion = scheme["version"]
    item.CodingSchemeResponsibleOrganization = scheme["organization"]
    return item


def coded(code: Code) -> Dataset:
    """Return a code as an item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    if code.scheme == DESIGNATOR:
        item.CodingSchemeVersion = SCHEME_VERSION
    return item
