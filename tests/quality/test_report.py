"""``quality report``: control charts by the book, and what a node's database says of each device."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from dicom_io.device import Device
from node.cli.quality import command
from node.quality.charts import Control, control, moving_ranges, out_of_control
from node.quality.page import page
from node.quality.report import policy, report
from node.store import Database, index, jobs, studies
from node.store.changes import Arrived
from node.store.quality import graded
from node.store.rows import Planned
from tests.cli.documents import valid
from tests.stores import STORES

JULY = datetime(2026, 7, 20, 12, tzinfo=UTC).timestamp()
DAY = 86400.0
CONTROL = Control(30, 10.0, 4.0, 16.0, 2.256, 7.37)


@pytest.mark.unit
def test_limits_of_a_chart_are_those_of_the_book() -> None:
    """Wheeler's example of individuals: 39, 41, 41, 41, 43, 44, 41, 42, 40, 41."""
    values = [39.0, 41.0, 41.0, 41.0, 43.0, 44.0, 41.0, 42.0, 40.0, 41.0]
    assert moving_ranges(values) == [2, 0, 0, 2, 1, 3, 1, 2, 1]
    found = control(values, 30, 10)
    assert found is not None
    assert (found.centre, found.range_centre) == (pytest.approx(41.3), pytest.approx(12 / 9))
    assert found.high == pytest.approx(41.3 + 2.66 * 12 / 9)
    assert found.low == pytest.approx(41.3 - 2.66 * 12 / 9)
    assert found.range_high == pytest.approx(3.267 * 12 / 9)
    assert control(values, 30, 11) is None
    assert control([1.0] * 30, 30, 20) is None
    assert control([*values, 900.0, 900.0], 10, 10) == found, "what comes later moves no limit"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ([10, 16, 4, 10], {}),
        ([10, 16.1, 10, 3.9], {1: (1,), 3: (1,)}),
        ([14.1, 10, 14.1], {2: (2,)}),
        ([14.1, 10, 10, 14.1], {}),
        ([14.1, 5.9, 10], {}),
        ([5.9, 5.9, 5.9], {1: (2,), 2: (2,)}),
        ([14.1, 17], {1: (1, 2)}),
        ([14.1, 14.1, 10], {1: (2,)}),
    ],
)
def test_rules_of_a_chart(values: list[float], broken: dict[int, tuple[int, ...]]) -> None:
    assert out_of_control(values, CONTROL) == broken


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Database]]:
    """Return the configuration and database of a node that has graded radiographs of two devices, one of them getting worse."""
    folder = tmp_path_factory.mktemp("node")
    data = folder / "data"
    data.mkdir()
    (folder / "node.toml").write_text(f'[node]\ndata_dir = "{data}"\n', encoding="utf-8")
    db = STORES.open(data)
    for n in range(45):
        value = 0.3 + 0.01 * (n % 3) + (0.5 if n == 40 else 0.0)
        said(db, n, JULY + n * DAY, {"sharpness": value}, "C" if n == 40 else "A")
    said(db, 90, JULY, {"sharpness": 0.4}, "A", station="DX2")
    said(db, 91, JULY, {}, None, station="DX2")
    said(
        db, 90, JULY + DAY, {"sharpness": 0.5}, "B", station="DX2", image=3
    )  # once more, of more images: the last word
    yield folder / "node.toml", db
    db.close()


def said(
    db: Database, n: int, at: float, measures: dict[str, float], grade: str | None, station: str = "DX1", image: int = 2,
    *, failed: bool = False,
) -> None:  # fmt: skip
    """Let a radiograph be graded, refused, or fail."""
    uid = f"2.25.9000{n:02d}"
    arrived = Arrived(
        "a",
        at,
        uid,
        f"{uid}.1",
        f"{uid}.{image}",
        "1.2",
        "1.2",
        f"d{n}.{image}",
        1,
        f"e{n}.{image}",
        "image",
        patient_id=f"SECRET{n}",
    )
    assert index.index(db, f"j{n}.{image}", (0, 1), [arrived], lambda _uid: f"{n:016x}") is not None
    seen = studies.study(db, uid)
    assert seen is not None
    plan = Planned("cxr_quality", (f"{uid}.1",), {}, {})
    assert studies.close(db, seen, [plan], at, publish=True, why={}, routed={})
    job = jobs.claim(db, jobs.jobs(db, uid)[-1].id, "w", at, 30.0)
    assert job is not None
    origin = Device("Maker", "M", station).as_json()
    reason = {"code": "not-a-chest-radiograph", "class": "not_applicable", "text": {}, "hint": {}}
    codes = [{"code": "image-blurred"}, {"code": "image-blurred"}, {"code": "values-clipped"}] if grade == "C" else []
    quality = {
        "grade": grade, "findings": codes, "not_evaluated": [],
        "measures": {k: {"value": v, "unit": "1"} for k, v in measures.items()} | {"burned_in": {"value": 1.0, "unit": ""}},
    }  # fmt: skip
    document: dict[str, Any] = {
        "device_of_origin": origin,
        "quality": quality if grade else None,
        "reason": None if grade else reason,
    }
    outcome = "result" if grade else "failed" if failed else "not_analysed"
    assert jobs.finish(
        db, job, "w", at, state="dead" if failed else "done", outcome=outcome, reason=None if grade else reason,
        document=document,
    )  # fmt: skip


@pytest.mark.sockets
def test_of_what_was_graded_again_the_last_word_is_read_on_both_databases(back_end: str, tmp_path: Path) -> None:
    db = STORES.open(tmp_path)
    said(db, 1, JULY, {"sharpness": 1.0}, "A")
    said(db, 1, JULY + DAY, {"sharpness": 2.0}, "C", image=3)
    said(db, 2, JULY + 2 * DAY, {}, None)
    said(db, 3, JULY + 3 * DAY, {}, None, failed=True)
    rows = list(graded(db, ("cxr_quality",), JULY))
    assert [(r.at, r.outcome, r.study_hash) for r in rows] == [
        (JULY + DAY, "result", f"{1:016x}"), (JULY + 2 * DAY, "not_analysed", f"{2:016x}"),
        (JULY + 3 * DAY, "failed", f"{3:016x}"),
    ], back_end  # fmt: skip
    assert list(graded(db, ("ct_quality",), JULY)) == []
    db.close()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["report", *map(str, arguments)], standalone_mode=False)


@pytest.mark.unit
def test_a_node_says_how_good_the_images_of_each_device_were(node: tuple[Path, Database], tmp_path: Path) -> None:
    config, _ = node
    done = run("--config", config, "--json", "--out", tmp_path)
    assert done.return_value == 0, done.output
    document = valid(json.loads(done.stdout))
    assert document == json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    months = {(m["device"]["station"], m["month"]): m for m in document["months"]}
    assert {key: m["images"] for key, m in months.items()} == {
        ("DX1", "2026-07"): 12, ("DX1", "2026-08"): 31, ("DX1", "2026-09"): 2, ("DX2", "2026-07"): 1,
    }  # fmt: skip
    assert months["DX1", "2026-08"]["grades"] == {"A": 30, "B": 0, "C": 1, "D": 0}
    assert months["DX1", "2026-08"]["alarms"] == 1
    assert months["DX1", "2026-08"]["findings"] == {"image-blurred": 1, "values-clipped": 1}, "images are counted"
    assert months["DX2", "2026-07"]["refused"] == {"not-a-chest-radiograph": 1}
    charts = {c["device"]["station"]: c for c in document["charts"]}
    assert {(c["measure"], c["n"]) for c in document["charts"]} == {("sharpness", 45), ("sharpness", 1)}
    assert charts["DX2"]["limits"] is None
    assert months["DX2", "2026-07"]["grades"] == {"A": 0, "B": 1, "C": 0, "D": 0}, "the last word counts"
    assert [(o["utc"][:10], o["study"], o["rules"]) for o in charts["DX1"]["out_of_control"]] == [
        ("2026-08-29", f"{40:016x}", [1])
    ]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(word in html + done.stdout for word in ("SECRET", "2.25.")), "a patient is in it"


@pytest.mark.unit
def test_a_report_begins_where_it_is_asked_to(node: tuple[Path, Database]) -> None:
    config, _ = node
    done = run("--config", config, "--json", "--since", "2026-09-01")
    assert json.loads(done.stdout)["images"] == 2
    assert run("--config", config, "-q", "--since", "2027-01-01").return_value == 3
    assert "2026-11-01" in str(run("--config", config, "--since", "soon").exception)
    assert isinstance(run("--config", config, "--since", "soon").exception, click.UsageError)


@pytest.mark.unit
def test_the_page_of_a_report_runs_nothing_fetches_nothing_and_speaks_both_languages(
    node: tuple[Path, Database],
) -> None:
    _, db = node
    html = page(report(graded(db, ("cxr_quality",), 0.0)), None, JULY)
    assert not any(word in html for word in ("<script", "http:", "https:", "src=", "@import", "url("))
    for words in policy()["words"].values():
        assert set(words) == {"en", "zh-CN"}
    assert "Control charts" in html
    assert "控制图" in html
    charts = html.split("<svg")[1:3]
    assert [chart.count('class="out"') for chart in charts] == [1, 0]
    assert [chart.count("<circle") for chart in charts] == [45, 44]
    assert html.count("<svg") == html.count("</svg>") == 3, "one value has no moving range"
    assert "Nothing was graded" in page(report(iter(())), JULY, JULY)


@pytest.mark.unit
def test_a_device_whose_name_is_markup_stays_a_name(node: tuple[Path, Database]) -> None:
    _, db = node
    row = next(iter(graded(db, ("cxr_quality",), 0.0)))
    row.document["device_of_origin"]["station"] = "<script>x</script>"
    assert "<script" not in page(report([row]), None, JULY)
