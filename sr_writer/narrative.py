"""What a result says in words and numbers for people, the same in report and picture."""

from pipeline.result import Measurement, Result
from sr_writer.codes import measurement, site_label, text, unit_sign

Language = str


def number(m: Measurement, *, plain: bool = False) -> str:
    """Return a value with its unit: ``≥`` before a lower bound, a dash for what cannot be given.

    Parameters
    ----------
    m : Measurement
        What was measured.
    plain : bool
        Write units as UCUM writes them, for text that must survive older character sets.
    """
    if m.value is None:
        return "—"
    sign = {"[hnsf'U]": "HU"}.get(m.unit, m.unit) if plain else unit_sign(m.unit)
    value = f"{m.value:z.{measurement(m.name).decimals}f}"
    return ("≥ " if m.status == "lower_bound" else "") + f"{value} {sign}".rstrip()


def conclusion(result: Result, language: Language) -> str:
    """Return whether something was found, in one sentence."""
    if result.findings:
        return text("found", language, count=len(result.findings))
    return text("undetermined" if undetermined(result) else "nothing_found", language)


def undetermined(result: Result) -> bool:
    """Whether nothing was found and yet nothing can be ruled out: a number about opacities is missing or a bound."""
    return not result.findings and any(m.status != "ok" for m in result.measurements if "opacity" in m.name)


def quality_lines(result: Result, language: Language) -> list[str]:
    """Return the grade and every finding about the images."""
    findings = [f.reason.text[language] for f in result.quality.findings]
    return [text("grade", language, grade=result.quality.grade), *findings]


def measurement_line(m: Measurement, language: Language) -> str:
    """Return a measurement as one line of text."""
    line = f"{site_label(m.site, language)}: {measurement(m.name).label[language]} {number(m, plain=True)}"
    return line if m.reason is None else f"{line} ({m.reason.text[language]})"


def impression(result: Result, language: Language, *, research: bool) -> str:
    """Return the whole comment of the report in one language, lines joined by CR LF."""
    paragraphs = [text("banner", language) + (f" · {text('research', language)}" if research else "")]
    paragraphs.append(text("software", language, pipeline=result.pipeline, version=result.version))
    paragraphs.append(conclusion(result, language))
    if result.summary.get(language):
        paragraphs.append(result.summary[language])
    for finding in result.findings:
        numbers = "; ".join(
            f"{measurement(m.name).label[language]} {number(m, plain=True)}" for m in finding.measurements
        )
        paragraphs.append(f"{finding.tracking_id}: {site_label(finding.site, language)}; {numbers}")
    paragraphs += [measurement_line(m, language) for m in result.measurements]
    paragraphs += quality_lines(result, language)
    if result.notes:
        paragraphs.append(text("limits", language) + ": " + " ".join(n.text[language] for n in result.notes))
    return "\r\n".join(paragraphs)
