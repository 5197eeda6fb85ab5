"""The report as one page of HTML with its charts in it: nothing is fetched, and nothing in it runs."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from dicom_io.device import Device
from dicom_io.reason import LANGUAGES
from node.quality.charts import moving_ranges
from node.quality.report import GRADES, Chart, Report, policy
from node.told import ALARMS
from pipeline.reasons import REASONS

_WIDTH, _HEIGHT, _EDGE, _RIGHT = 860, 150, 8, 60
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:900px;padding:0 1em;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%;margin:1em 0}td,th{border-bottom:1px solid #d5dae0;padding:.3em .5em;text-align:left;
vertical-align:top}td.n{text-align:right}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}h3{font-size:1em;margin-bottom:.2em}
small,.zh{color:#57606a}figure{margin:.4em 0 1.4em}svg{width:100%;height:auto;background:#f6f8fa}.bad{color:#b3261e}
.line{fill:none;stroke:#2f5d8c;stroke-width:1.2}.centre{stroke:#57606a;stroke-width:1}.limit{stroke:#b3261e;stroke-width:1;
stroke-dasharray:5 4}.out{fill:#b3261e}.dot{fill:#2f5d8c}text{font:11px system-ui,sans-serif;fill:#57606a}
"""


def page(found: Report, since: float | None, now: float) -> str:
    """Return the whole page."""
    parts = [_head(since, now)]
    if not found.months:
        parts.append(f"<p>{_said('none')}</p>")
    else:
        parts += [_months(found), f"<h2>{_said('charts')}</h2>", f"<p>{_said('how', **policy()['chart'])}</p>"]
        parts += [_figure(chart) for chart in found.charts]
    title = escape(_words("title")[0])
    return (
        f'<!doctype html>\n<html lang="{LANGUAGES[0]}"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _words(name: str, **values: object) -> list[str]:
    return [policy()["words"][name][tag].format(**values) for tag in LANGUAGES]


def _said(name: str, **values: object) -> str:
    """Return a text in every language, as HTML."""
    texts = _words(name, **values)
    return "<br>".join(
        f'<span lang="{tag}"{"" if n == 0 else " class=zh"}>{escape(words)}</span>'
        for n, (tag, words) in enumerate(zip(LANGUAGES, texts, strict=True))
    )


def _label(name: str) -> str:
    return escape(" · ".join(_words(name)))


def _head(since: float | None, now: float) -> str:
    from_ = f"{_label('since')}: {_day(since)}. " if since is not None else ""
    return (
        f"<h1>{_label('title')}</h1><p>{from_}{_label('made')}: {_day(now)}</p>"
        f"<p>{_said('machine')}</p><p><small>{_said('no_patient')}</small></p>"
    )


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def name_of(device: Device) -> str:
    """Return how people call a device."""
    return ", ".join(v for v in device.as_json().values() if v) or " · ".join(_words("unnamed"))


def named(measure: str, unit: str) -> str:
    """Return a measure with its unit, where it has one."""
    return measure if unit == "1" else f"{measure} ({unit})"


def _months(found: Report) -> str:
    columns = ("device", "month", "images", "grades", "alarms", "findings", "refused")
    head = "".join(f"<th>{_said(name)}</th>" for name in columns)
    return f"<table><tr>{head}</tr>{''.join(_rows(found))}</table>"


def _rows(found: Report) -> Iterator[str]:
    for (pipeline, device, name), month in found.months.items():
        bad = sum(month.grades[g] for g in ALARMS)
        grades = " ".join(f"{g} {month.grades[g]}" for g in GRADES)
        share = f"{bad} ({100 * bad / month.images:.0f} %)" if month.images else "0"
        findings = "<br>".join(f"{count} x {_finding(code)}" for code, count in month.findings.most_common())
        refused = "<br>".join(f"{count} x {escape(code)}" for code, count in month.refused.most_common())
        yield (
            f"<tr><td>{escape(name_of(device))}<br><small>{escape(pipeline)}</small></td><td>{name}</td>"
            f"<td class=n>{month.images}</td><td>{grades}</td><td class=n>{share}</td><td>{findings}</td><td>{refused}</td></tr>"
        )


def _finding(code: str) -> str:
    """Return a code with what it means, if this version knows it."""
    meaning = REASONS[code].text if code in REASONS else {}
    blank = " / ".join(_blank(meaning[tag]) for tag in LANGUAGES if tag in meaning)
    return f'<span title="{escape(blank)}">{escape(code)}</span>'


def _blank(text: str) -> str:
    return "".join(
        part.split("}", 1)[-1] if n == 0 else "…" + part.split("}", 1)[-1] for n, part in enumerate(text.split("{"))
    )


def _figure(chart: Chart) -> str:
    values = [v.value for v in chart.values]
    first = max(0, len(values) - policy()["chart"]["shown"])
    broken = {n - first for n in chart.broken if n >= first}
    limits = chart.limits
    lines = () if limits is None else (limits.low, limits.centre, limits.high)
    of_ranges = () if limits is None else (limits.range_centre, limits.range_high)
    rules = policy()["chart"]
    if limits is None:
        note = escape(" · ".join(_words("few", count=len(values), least=rules["least"])))
    else:
        note = (
            f'<span class="{"bad" if chart.broken else ""}">{_label("out")}: {len(chart.broken)} / {len(values)}</span>'
        )
    title = f"{escape(name_of(chart.device))}: {escape(named(chart.measure, chart.unit))}"
    ranges = moving_ranges(values)
    return (
        f"<figure><h3>{title}</h3><figcaption>{note}</figcaption>"
        + _svg(values[first:], lines, broken, _label("individuals"))
        + _svg(ranges[max(0, first - 1) :], of_ranges, set(), _label("ranges"))
        + "</figure>"
    )


def _svg(values: Sequence[float], lines: Sequence[float], marked: set[int], label: str) -> str:
    """Draw one chart; the outer lines are limits, the others centres."""
    if not values:
        return ""
    everything = [*values, *lines]
    low, high = min(everything), max(everything)
    tall = (high - low) or 1.0

    def y(value: float) -> float:
        return round(_HEIGHT - _EDGE - (value - low) / tall * (_HEIGHT - 3 * _EDGE), 1)

    step = (_WIDTH - _RIGHT - 2 * _EDGE) / max(len(values) - 1, 1)
    places = [(round(_EDGE + n * step, 1), y(value)) for n, value in enumerate(values)]
    drawn = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><text x="{_EDGE}" y="12">{label}</text>']
    limits = {lines[-1], lines[0]} if len(lines) > 2 else set(lines[-1:])
    for line in lines:
        kind = "limit" if line in limits else "centre"
        drawn.append(f'<line class="{kind}" x1="0" x2="{_WIDTH - _RIGHT}" y1="{y(line)}" y2="{y(line)}"/>')
        drawn.append(f'<text x="{_WIDTH - _RIGHT + 4}" y="{y(line) + 4}">{line:.4g}</text>')
    drawn.append(f'<polyline class="line" points="{" ".join(f"{px},{py}" for px, py in places)}"/>')
    for n, (px, py) in enumerate(places):
        drawn.append(
            f'<circle class="{"out" if n in marked else "dot"}" cx="{px}" cy="{py}" r="{4 if n in marked else 1.8}"/>'
        )
    return "".join([*drawn, "</svg>"])
