"""What a result says in words and numbers for people, the same in report, picture, PDF and text.

A narrative is a row of paragraphs in one language, always in one order: the sentence for the radiologist; what was found;
what rules suggest; the numbers with their units; what could not be given, and why; the images; the limits of the analysis;
who says all this.
Templates and tables decide every word (``texts.toml``, ``codes.toml``, the reasons), nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dicom_io.reason import Reason
from pipeline.result import Evidence, Finding, Measurement, Projection, Result, Suggestion
from sr_writer.codes import concept_label, measurement, pipeline_label, site_label, text, unit_sign
from sr_writer.considered import Considered
from sr_writer.quality import Remark, figures, is_radiograph, only_quality, quantity, remarks
from sr_writer.wording import decimal

Language = str
Topic = Literal[
    "impression",
    "findings",
    "suggestions",
    "measurements",
    "missing",
    "series",
    "quality",
    "not_evaluated",
    "limits",
    "origin",
]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One part of a narrative.

    Parameters
    ----------
    topic : Topic
        What it is about, in every language.
    heading : str
        The same for people; stands before the lines where the medium has headings.
    lines : tuple[str, ...]
        Sentences or rows, at least one.
    """

    topic: Topic
    heading: str
    lines: tuple[str, ...]


def paragraphs(result: Result, language: Language, *, research: bool, plain: bool = False) -> tuple[Paragraph, ...]:
    """Return the narrative of a result.

    Parameters
    ----------
    result : Result
        What the pipeline said.
    language : Language
        One of the node's.
    research : bool
        Say that it is for research.
    plain : bool
        Write units as UCUM writes them, for text that must survive older character sets.

    Returns
    -------
    tuple[Paragraph, ...]
        In the order in which they are read; a topic without anything to say is left out. The first is the impression.
    """
    said: list[tuple[Topic, Iterable[str]]] = [
        ("impression", (conclusion(result, language), result.summary.get(language, ""))),
        ("findings", (_finding(f, result, language, plain=plain) for f in result.findings)),
        ("suggestions", (line for one in result.suggestions for line in suggestion_lines(one, language, plain=plain))),
        ("measurements", _rows(result.measurements, language, plain=plain)),
        ("missing", _missing(result, language)),
        ("quality", quality_lines(result, language, plain=plain)),
        ("not_evaluated", (r.text[language] for r in result.quality.not_evaluated)),
        ("limits", (n.text[language] for n in result.notes)),
        ("origin", _origin(result.pipeline, result.version, language, research=research)),
    ]
    return _filled(said, language)


def no_result(
    reason: Reason, outcome: Literal["not_analysed", "failed"], considered: Sequence[Considered], language: Language,
    *, pipeline: str, version: str, research: bool,
) -> tuple[Paragraph, ...]:  # fmt: skip
    """Return the narrative of a study without a result: that there is none, why, and what can be done.

    Parameters
    ----------
    reason : Reason
        Why.
    outcome : {"not_analysed", "failed"}
        Whether it worked as designed.
    considered : Sequence[Considered]
        Series that were looked at, each with its reason.
    language : Language
        One of the node's.
    pipeline, version : str
        Who says so.
    research : bool
        Say that it is for research.
    """
    hint = reason.hint.get(language)
    said: list[tuple[Topic, Iterable[str]]] = [
        (
            "impression",
            (
                text(f"card_{outcome}", language, pipeline=pipeline_label(pipeline, language)),
                text("labelled", language, name=text("reason", language), value=reason.text[language]),
                text("labelled", language, name=text("hint", language), value=hint) if hint else "",
            ),
        ),
        ("series", dict.fromkeys(c.reason.text[language] for c in considered)),
        ("origin", _origin(pipeline, version, language, research=research)),
    ]
    return _filled(said, language)


def joined(narrative: Iterable[Paragraph], language: Language) -> str:
    """Return a narrative as one text, lines joined by CR LF; all but the first paragraph have their heading."""
    lines: list[str] = []
    for n, paragraph in enumerate(narrative):
        if n:
            lines.append(text("labelled", language, name=paragraph.heading, value="").rstrip())
        lines += paragraph.lines
    return "\r\n".join(lines)


def number(m: Measurement, *, plain: bool = False, language: Language = "en") -> str:
    """Return a value with its unit: ``≥`` before a lower bound, a dash for what cannot be given.

    Parameters
    ----------
    m : Measurement
        What was measured.
    plain : bool
        Write units as UCUM writes them, for text that must survive older character sets.
    language : Language
        Whose decimals.
    """
    if m.value is None:
        return "—"
    sign = {"[hnsf'U]": "HU"}.get(m.unit, m.unit) if plain else unit_sign(m.unit)
    value = decimal(m.value, measurement(m.name).decimals, language)
    return ("≥ " if m.status == "lower_bound" else "") + f"{value} {sign}".rstrip()


def bare(m: Measurement) -> str:
    """Return a value without its unit, which stands in the head of the column."""
    return number(m).removesuffix(unit_sign(m.unit)).rstrip()


def conclusion(result: Result, language: Language) -> str:
    """Return whether something was found, in one sentence; of a result about the images how good they are, in a few."""
    if only_quality(result):
        return _graded(result, language)
    what = "_image" if isinstance(result.geometry, Projection) else ""
    if result.findings:
        return text("found" + what, language, count=len(result.findings))
    return text(("undetermined" if undetermined(result) else "nothing_found") + what, language)


def undetermined(result: Result) -> bool:
    """Whether nothing was found and yet nothing can be ruled out: a number about opacities is missing or a bound."""
    return not result.findings and any(m.status != "ok" for m in result.measurements if "opacity" in m.name)


def suggestion_lines(said: Suggestion, language: Language, *, plain: bool = False) -> list[str]:
    """Return the answer and every rule behind it in words, one line each.

    Parameters
    ----------
    said : Suggestion
        What is suggested.
    language : str
        One of the node's.
    plain : bool
        Write units as UCUM writes them, for text that must survive older character sets.
    """
    return [said.text[language], *(_evidence(e, language, plain=plain) for e in said.evidence)]


def _evidence(e: Evidence, language: Language, *, plain: bool) -> str:
    speaks = text(f"speaks_{e.speaks}", language)
    if e.value is None:
        return text("labelled", language, name=e.text[language], value=speaks)
    shown = [_shown(v, e.unit, language, plain=plain) for v in (e.value, e.limit)]
    value = text("evidence", language, value=shown[0], limit=shown[1], speaks=speaks)
    return text("labelled", language, name=e.text[language], value=value)


def _shown(value: float, unit: str, language: Language, *, plain: bool) -> str:
    """Return a number, a ratio without its unit."""
    return quantity(value, "1" if unit == "{ratio}" else unit, language, plain=plain)


def quality_lines(result: Result, language: Language, *, plain: bool = False) -> list[str]:
    """Return the grade and every finding about the images, the worst first: alarm or remark, what was measured, the limit.

    A result that is about the images alone says besides what a person has to decide.
    """
    grade = concept_label(f"grade_{result.quality.grade.lower()}", language)
    hint = only_quality(result)
    lines = (remark_line(r, language, plain=plain, hint=hint) for r in remarks(result))
    return [text("grade", language, grade=grade), *lines]


def tally(result: Result, language: Language) -> str:
    """Return how many alarms and remarks there are; empty without any."""
    alarms = sum(r.alarm for r in remarks(result))
    counts = (("alarms", alarms), ("remarks", len(result.quality.findings) - alarms))
    return text("list", language).join(text(name, language, count=n) for name, n in counts if n)


def to_decide(remark: Remark, language: Language) -> str:
    """Return what a person should look at before deciding; empty where the finding says nothing of it."""
    hint = remark.found.reason.hint.get(language)
    return text("labelled", language, name=text("to_decide", language), value=hint) if hint else ""


def remark_label(remark: Remark, language: Language) -> str:
    """Return whether it is an alarm or a remark, with its grade."""
    return text("alarm" if remark.alarm else "remark", language, grade=remark.found.grade)


def remark_line(remark: Remark, language: Language, *, plain: bool, hint: bool) -> str:
    """Return a finding about the images: alarm or remark, what it is, what was measured, the limit, what to decide."""
    said = [remark.found.reason.text[language]]
    if number := figures(remark.found, language, plain=plain):
        said.append(text("bracketed", language, value=number))
    if hint and (words := to_decide(remark, language)):
        said.append(words)
    value = text("sentence", language).join(said)
    return text("labelled", language, name=remark_label(remark, language), value=value)


def unjudged_lines(result: Result, language: Language) -> list[str]:
    """Return what could not be judged about the images, and why."""
    name = text("topic_not_evaluated", language)
    return [text("labelled", language, name=name, value=r.text[language]) for r in result.quality.not_evaluated]


def _graded(result: Result, language: Language) -> str:
    grade = concept_label(f"grade_{result.quality.grade.lower()}", language)
    said = [text("graded_image" if is_radiograph(result) else "graded_series", language, grade=grade)]
    counts = tally(result, language)
    said.append(text("full_stop", language, value=counts) if counts else text("nothing_beyond", language))
    if any(r.alarm for r in remarks(result)):
        said.append(text("person_decides", language))
    return text("sentence", language).join(said)


def finding_label(finding: Finding, result: Result, language: Language) -> str:
    """Return what people call a finding: the label of the segment that shows it, else its tracking identifier."""
    if finding.segment_number is None:
        return finding.tracking_id
    return result.segments[finding.segment_number - 1].label.get(language, finding.tracking_id)


def _finding(finding: Finding, result: Result, language: Language, *, plain: bool) -> str:
    said = [site_label(finding.site, language), *_numbers(finding.measurements, language, plain=plain)]
    value = text("clause", language).join(said)
    return text("labelled", language, name=finding_label(finding, result, language), value=value)


def _rows(measurements: Sequence[Measurement], language: Language, *, plain: bool) -> list[str]:
    """Return one line for each site, with what could be given."""
    rows = []
    for site in dict.fromkeys(m.site for m in measurements):
        numbers = _numbers([m for m in measurements if m.site == site], language, plain=plain)
        if numbers:
            value = text("clause", language).join(numbers)
            rows.append(text("labelled", language, name=site_label(site, language), value=value))
    return rows


def _numbers(measurements: Iterable[Measurement], language: Language, *, plain: bool) -> list[str]:
    given = (m for m in measurements if m.value is not None)
    return [f"{measurement(m.name).label[language]} {number(m, plain=plain, language=language)}" for m in given]


def _missing(result: Result, language: Language) -> list[str]:
    """Return one line for each reason why numbers are missing or bounds, and of what: a finding is called by its name."""
    measured = [(site_label(m.site, language), m) for m in result.measurements]
    measured += [(finding_label(f, result, language), m) for f in result.findings for m in f.measurements]
    reasons: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for of, m in measured:
        if m.reason is not None and m.status != "ok":
            names = reasons.setdefault((m.status, m.reason.text[language]), {})
            names.setdefault(measurement(m.name).label[language], {})[of] = None
    lines = []
    for (status, why), names in reasons.items():
        what = text("clause", language).join(
            text("at_site", language, name=name, site=text("list", language).join(all_of))
            for name, all_of in names.items()
        )
        lines.append(text(f"why_{status}", language, what=what, why=why))
    return lines


def _origin(pipeline: str, version: str, language: Language, *, research: bool) -> list[str]:
    marks = [text("banner", language), *([text("research", language)] if research else [])]
    return [text("software", language, pipeline=pipeline, version=version), " · ".join(marks)]


def _filled(said: Iterable[tuple[Topic, Iterable[str]]], language: Language) -> tuple[Paragraph, ...]:
    out = []
    for topic, lines in said:
        kept = tuple(line for line in lines if line)
        if kept:
            out.append(Paragraph(topic, text(f"topic_{topic}", language), kept))
    return tuple(out)
