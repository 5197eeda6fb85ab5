"""Small documents of `show` and `status`, valid by their schemas, for tests of what a person reads."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import node

SCHEMAS = Path(node.__file__).parent / "schemas"
AT = "2026-11-21T09:00:00.000Z"


def valid(document: dict[str, Any]) -> dict[str, Any]:
    name = document["schema"].removeprefix("pacs-ai-node/").replace("/", "-")
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(document)
    return document


def reason(code: str, klass: str = "error") -> dict[str, Any]:
    """Return a reason whose texts name their code and language."""
    return {
        "code": code, "class": klass, "text": {"en": f"{code} in English", "zh-CN": f"{code} 中文"},
        "hint": {"en": f"{code}: do this"},
    }  # fmt: skip


def job(number: int = 1, **more: Any) -> dict[str, Any]:
    row = {
        "pipeline": "chest_ct", "pipeline_version": "1", "pipeline_digest": None, "input_digest": None, "device": "cpu",
        "outcome": "result", "reason": None, "series_instance_uid": "1.2.3", "series_considered": [], "quality": None,
        "measurements": [], "findings": [], "artifacts": [], "replaced": [], "timings_s": {}, "job": number, "state": "done",
        "revision": 1, "attempts": 1, "carried_from": None, "stage": None, "progress": None, "created": AT,
        "started": AT, "ended": AT, "not_before": None, "subject": "study",
    }  # fmt: skip
    return {**row, **more}


def delivery(**more: Any) -> dict[str, Any]:
    row = {
        "destination": "pacs", "what": "objects", "job": 1, "revision": 1, "priority": 2, "state": "delivered",
        "attempts": 1, "next_attempt": None, "last_error": None, "identity": "checked", "proof": "find",
        "proof_next": None, "created": AT, "ended": AT, "profile": "ohif", "objects": [], "not_written": [], "rejects": [],
        "breaker": "closed",
    }  # fmt: skip
    return {**row, **more}


def destination(**more: Any) -> dict[str, Any]:
    row = {
        "name": "pacs", "breaker": "closed", "since": None, "next_try": None, "last_error": None, "waiting": 0,
        "dead": 0, "quarantined": 0, "last_accepted": None,
    }  # fmt: skip
    return {**row, **more}


def show(**more: Any) -> dict[str, Any]:
    document = {
        "schema": "pacs-ai-node/show/1", "version": "test", "study_instance_uid": "1.2.3.4", "hash": "0123456789abcdef",
        "accession": "A1", "patient_id": "P1", "date": "20261120", "state": "closed", "revision": 1, "instances": 64,
        "series": 1, "waiting_for": [], "patients": [], "jobs": [], "timeline": [], "deliveries": [], "corrections": [], "alarms": [],
    }  # fmt: skip
    return valid({**document, **more})


def status(**more: Any) -> dict[str, Any]:
    document = {
        "schema": "pacs-ai-node/status/1", "version": "test", "running": True, "data_dir": "/data",
        "nodes": [{"name": "ct-node", "state": "alive", "heard": AT, "ahead_s": 0.01}],
        "processes": [{"node": "ct-node", "role": "supervisor", "pid": 7, "started": AT}],
        "listens": {"host": "127.0.0.1", "port": 11112, "ae_titles": ["PACSAINODE"]}, "associations": 0,
        "studies": {"open": 0, "closed": 1}, "jobs": {"waiting": 0, "running": 0, "dead": 0},
        "deliveries": dict.fromkeys(
            ("held", "waiting", "sending", "delivered", "confirmed", "quarantined", "superseded", "cancelled", "dead"), 0
        ),
        "alarms": [], "destinations": [], "senders": [], "refused": [], "withheld": 0, "quarantine": 0,
        "disk": {
            "free_bytes": 2 * 10**9, "total_bytes": 10**10, "accepting": True, "reason": None,
            "bytes_per_day": 10**8, "full_in_days": 20.0,
        },
        "relays": {"waiting": 0, "dead": 0}, "commitments": {"waiting": 0, "asked": 0, "to_tell": 0, "dead": 0},
        "idle": True,
    }  # fmt: skip
    return valid({**document, **more})
