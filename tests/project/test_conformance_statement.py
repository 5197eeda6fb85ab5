"""What the conformance statement says is what the code does: every table, both ways."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pynetdicom
import pytest
from pydicom.charset import python_encoding
from pydicom.uid import UID
from pynetdicom.presentation import DEFAULT_TRANSFER_SYNTAXES

from config import settings
from dicom_io import charset, contexts, dicomweb, door, limits, scp, scu, scu_query, status, stow, syntaxes, tls, upper
from dicom_io.frames import ENHANCED_CT
from dicom_io.rights import RIGHTS
from dicom_io.scp_types import Listener
from sr_writer import device, profiles
from sr_writer.seg_frames import LABEL_MAP_STORAGE
from tests.project.statement import ROOT, section, table

pytestmark = pytest.mark.unit


def spans(cell: str, digits: str = "[0-9A-F]{4}") -> Iterator[tuple[str, str]]:
    for first, last in re.findall(rf"\b({digits})(?:-({digits}))?\b", cell):
        yield first, last or first


def test_the_overview_names_every_service() -> None:
    assert [row[2:] for row in table("Network services")] == [
        (contexts.VERIFICATION, "yes", "yes"),
        ("-", "no", "yes"),
        ("-", "yes", "no"),
        (contexts.STUDY_ROOT_FIND, "yes", "no"),
        (contexts.PERFORMED_STEP, "yes, to pass on what came", "yes"),
        (contexts.AVAILABILITY, "no", "yes"),
        (contexts.COMMITMENT, "option", "option"),
    ]
    names = {uid: name for _, name, uid, _, _ in table("Network services") if uid != "-"}
    assert {uid: UID(uid).name.removesuffix(" SOP Class") for uid in names} == names
    assert f"the {len(contexts.STORAGE_CLASSES)} classes" in section("Storage, as SCP")
    assert "It is **no archive**" in section("Overview")


def test_transfer_syntaxes_that_are_accepted() -> None:
    assert [uid for _, uid in table("Transfer syntaxes accepted for storage")] == list(contexts.STILL_IMAGE_SYNTAXES)
    assert [uid for _, uid in table("Notices")] == list(contexts.NOTICE_SYNTAXES)
    said = " ".join(section("Verification").split())
    assert ", ".join(UID(uid).name.split(":")[0] for uid in DEFAULT_TRANSFER_SYNTAXES) in said


def test_every_answer_to_an_object() -> None:
    assert {int(code, 16) for code, _ in table("Answers to C-STORE")} == {int(a) for a in status.Answer}
    told = section("Answers to STOW-RS")
    assert {int(a) for a in status.Answer} - {0, status.Answer.NOT_AUTHORISED} <= {
        int(code, 16) for code, _ in spans(told.split("Failure Reason:")[1])
    }


def test_every_http_status_of_ours() -> None:
    said = {int(code) for cell, *_ in table("Answers to STOW-RS") for code, _ in spans(cell, "[0-9]{3}")}
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "node" / "web").glob("*.py"))
    raised = {int(number) for number in re.findall(r"RefusedError\(\s*(\d{3})", code)}
    whole = {stow.http_status([stow.Stored(a, "", "") for a in answers]) for answers in _outcomes()}
    assert said == raised | whole | {404}  # unknown paths are the router's


def _outcomes() -> list[list[int]]:
    ok, space, bad = status.Answer.SUCCESS, status.Answer.OUT_OF_RESOURCES, status.Answer.CANNOT_UNDERSTAND
    return [[ok], [ok, bad], [bad], [space]]


def test_the_outcome_of_every_status_of_a_destination() -> None:
    words = {
        "delivered, the warning": "delivered-with-warning",
        "delivered if": "check",
        "dead": "dead",
        "sent again": "retry",
    }
    seen = {}
    for codes, text in table("What is done with a destination's status"):
        outcome = (
            "delivered" if text == "delivered" else next((o for w, o in words.items() if text.startswith(w)), None)
        )
        seen |= {(int(first, 16), int(last, 16)): outcome for first, last in spans(codes)}
    assert seen == {(r.first, r.last): r.outcome.value for r in status.TABLE}


def test_the_outcome_of_every_status_of_a_web_destination() -> None:
    words = {"delivered if": "check", "dead": "dead", "sent again": "retry"}
    seen, others = {}, None
    for codes, text in table("STOW-RS and QIDO-RS, as user agent"):
        outcome = next(o for w, o in words.items() if text.startswith(w))
        seen |= {n: outcome for a, b in spans(codes, "[0-9]{3}") for n in range(int(a), int(b) + 1)}
        others = outcome if codes.startswith("other") else others
    assert {n: seen.get(n, others) for n in range(200, 600)} == {
        n: dicomweb.judge_http(n).outcome.value for n in range(200, 600)
    }


def test_queries_have_the_keys_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {level: keys.split(", ") for level, _, keys, _ in table("Query, as SCU")}
    asked: dict[str, dict[str, bool]] = {}

    def take(_peer: object, query: Any, _timeouts: object) -> list[Any]:
        asked[query.QueryRetrieveLevel] = {e.keyword: bool(e.value) for e in query}
        return []

    monkeypatch.setattr(scu_query, "_find", take)
    peer = scu.Peer("127.0.0.1", 1, "A", "B")
    scu_query.find_study(peer, "1.2")
    scu_query.find_series(peer, "1.2")
    scu_query.find_instances(peer, "1.2", "1.3", ["1.4"])
    assert {level: {k.split(" ")[0]: "(match" in k for k in keys} for level, keys in rows.items()} == {
        level: {k: v for k, v in keys.items() if k not in ("SpecificCharacterSet", "QueryRetrieveLevel")}
        for level, keys in asked.items()
    }
    assert f"After {scu_query._MATCHES} matches" in section("Query, as SCU")


def test_every_object_that_is_sent() -> None:
    rows = {row[0]: row[1:] for row in table("Objects that are sent")}
    assert rows.pop("seg (labelmap)") == ("Label Map Segmentation", LABEL_MAP_STORAGE, "SEG", "902")
    told = {name: (uid, modality.split(",")[0], series) for name, (_, uid, modality, series) in rows.items()}
    assert told == {
        name: (facts["sop_class"], facts["modality"], str(facts["series_number"]))
        for name, facts in profiles.table()["object"].items()
    }
    for name, (sop_class, uid, *_) in rows.items():
        assert UID(uid).name.removesuffix(" Storage").removesuffix(" Image") == sop_class.removesuffix(" Image"), name


def test_transfer_syntaxes_that_are_proposed() -> None:
    rows = table("Transfer syntaxes that are proposed")
    assert [uid for _, uid, _, _ in rows] == list(profiles.SYNTAXES.values())
    for name, uid, _, instead in rows:
        others = scu._encodings(uid)[1:]
        assert [n.strip() for n in instead.split(",")] == [UID(o).name.split(":")[0] for o in others], name
        assert UID(uid).name == name


def test_images_that_are_analysed() -> None:
    rules = tomllib.loads((ROOT / "pipeline" / "chest_ct" / "series_rules.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.[0-9.]*[0-9]", str(rules)))
    graded = tomllib.loads((ROOT / "pipeline" / "quality" / "cxr" / "select.toml").read_text(encoding="utf-8"))["rule"]
    radiographs = {uid for r in graded if r["header"] == "SOPClassUID" for uid in r.get("none_of", ())}
    rows = {uid: comes for _, uid, comes in table("Images that are analysed")}
    assert set(rows) == named | radiographs
    assert {
        uid for uid, comes in rows.items() if "cxr_quality" in comes or comes.startswith("the same;")
    } == radiographs
    assert {uid for uid, comes in rows.items() if "frame by frame" in comes} == ENHANCED_CT
    assert f"more than {limits.LIMITS.read.frames} frames" in section("Images that are analysed")


def test_association_policies() -> None:
    rows = {row[0]: row[1:] for row in table("General")}
    assert rows["largest PDU announced (bytes)"] == (str(contexts.PDU_BYTES),) * 2
    assert rows["largest P-DATA-TF taken (bytes)"] == (str(upper.LARGEST_PDU), str(limits.LIMITS.read.pdu_bytes))
    assert rows["implementation class UID"] == (str(pynetdicom.PYNETDICOM_IMPLEMENTATION_UID),) * 2
    assert rows["implementation version name"] == (pynetdicom.PYNETDICOM_IMPLEMENTATION_VERSION,) * 2
    assert f"{device.IMPLEMENTATION_CLASS_UID}, {device.IMPLEMENTATION_VERSION}" in section("General")
    assert f"{scu._CONTEXTS} contexts an association" in " ".join(section("Objects that are sent").split())
    assert {right for right, _ in table("Who may come in")} == RIGHTS
    told = {tuple(int(n) for n in why.split(", ")) for answer, why, _ in table("Rejection and abort") if "RJ" in answer}
    rejections = (scp._REJECT_CALLING, scp._REJECT_CALLED, door._CONGESTION, door._LOCAL_LIMIT)
    assert told == set(rejections)


def test_timeouts() -> None:
    seconds = [float(s) for _, s in table("Timeouts")]
    dicom, ours = settings.Dicom(), scu.Timeouts()
    patience = Listener.__dataclass_fields__["patience_s"].default
    assert seconds == [
        dicom.request_s, dicom.idle_s, patience, door._LINGER_S, ours.connect_s, ours.associate_s, ours.answer_s,
    ]  # fmt: skip
    assert f"every {ours.slowest:.0f} bytes" in section("Timeouts")


PARTS: dict[str, type] = {
    "dicom": settings.Dicom, "dicom.peer": settings.Peer, "web": settings.Web, "destination": settings.Destination,
    "ris": settings.RIS, "commitment": settings.Commitment,
}  # fmt: skip


def test_every_parameter_and_its_default() -> None:
    told = {name: default for name, default, _ in table("Configuration")}
    ours = {f"{part}.{f.name}": _default(f) for part, kind in PARTS.items() for f in fields(kind)}
    some = {f"storage.{f.name}": _default(f) for f in fields(settings.Storage)}
    assert told == ours | {name: default for name, default in some.items() if name in told}
    assert {"storage.min_free_mb", "storage.max_waiting"} <= set(told), "what makes the answer 0xA700"


def _default(f: "Field[Any]") -> str:
    if f.default is MISSING and f.default_factory is MISSING:
        return "required"
    value = f.default if f.default is not MISSING else f.default_factory()  # type: ignore[misc]
    if value is None or value in ("", ()) or (isinstance(value, dict) and not value):
        return "none"
    if isinstance(value, tuple):
        return ", ".join(str(v) for v in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_character_sets() -> None:
    told = set()
    for cell, _ in table("In"):
        prefix = ""
        for term in (t.strip() for t in cell.split(",")):
            if found := re.match(r"(ISO_IR|ISO 2022 IR) ", term):
                prefix = found.group(0)
            told.add(prefix + term if term.isdigit() else term)
    assert told - {"none"} == {charset._spell(t) for t in python_encoding if t}


def test_cipher_suites() -> None:
    assert [suite for (suite,) in table("Security")] == list(tls.SUITES)


def test_statement_of_ihe_names_tests_that_there_are() -> None:
    tests = "\n".join(p.read_text(encoding="utf-8") for p in Path(ROOT / "tests").rglob("test_*.py"))
    rows = table("IHE Integration Statement", 1)
    assert len(rows) >= 3
    for *_, state, shown in rows:
        assert re.match(r"tested|designed along", state)
        assert all(f"def {name}(" in tests for name in shown.split(", ")), shown


def test_syntaxes_are_called_what_they_are() -> None:
    for name, uid in table("Transfer syntaxes accepted for storage"):
        assert uid in syntaxes.BY_UID
        assert name.split()[0].lower() in UID(uid).name.lower().replace("high-throughput jpeg 2000", "htj2k"), name


def test_the_product_is_this_one() -> None:
    told = dict(table("DICOM Conformance Statement"))
    assert told["product"] == f"{device.MODEL_NAME} (pacs-ai-node)"
    assert told["version"] == device.SOFTWARE_VERSION
    assert told["manufacturer"] == device.MANUFACTURER
    again = dict(table("IHE Integration Statement"))
    assert again == {
        "product": f"{told['product']} {told['version']}, {told['manufacturer']}",
        "date": told["date"],
    }


def test_web_services_are_at_the_paths_that_are_named() -> None:
    """Of the origin server the routes of the application, of the user agent the requests in its code."""
    app = (ROOT / "node" / "web" / "app.py").read_text(encoding="utf-8")
    served = [path.replace("{{", "{").replace("}}", "}") for path in re.findall(r'Route\(f"(\{base\}[^"]*)"', app)]
    agent = (ROOT / "dicom_io" / "dicomweb.py").read_text(encoding="utf-8")
    asked = dict.fromkeys(
        re.sub(r"\{quote\((\w+)\)\}", r"{\1}", path) for path in re.findall(r'"(/studies[^"?]*)', agent)
    )
    rows = table("Web services")
    assert [name for name, *_ in rows] == ["STOW-RS", "STOW-RS", "QIDO-RS"]
    assert rows[0][2] == ", ".join(f"POST {path}" for path in served)
    assert rows[1][2] == "POST {url}/studies"
    assert rows[2][2].split(", ") == [f"GET {{url}}{path}" for path in asked]
    assert ", ".join(f"POST {path}" for path in served) in section("STOW-RS, as origin server").replace("`", "")
