"""The operator's commands, called as an operator calls them."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dicom_io.reasons import REASONS as DICOM_REASONS
from node.installation import DataFolder
from node.loopback_pacs import LoopbackPacs
from node.reasons import REASONS
from node.store import StoreError, alarms, open_database
from tests.cli.documents import valid

pytestmark = pytest.mark.sockets


def call(rig: Any, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        rig.command(*arguments), capture_output=True, check=False, text=True, env=rig.environment(**environment)
    )


def test_echo_says_whether_a_destination_answers(rig: Any) -> None:
    assert call(rig, "echo", "pacs").returncode == 0
    answer = call(rig, "echo", "pacs", "--json")
    assert json.loads(answer.stdout)["ok"] is True
    rig.pacs.stop()
    answer = call(rig, "echo", "pacs", "--json")
    assert answer.returncode == 1
    assert valid(json.loads(answer.stdout))["error"]["code"] == "peer-refused-connection"
    answer = call(rig, "echo", "nowhere")
    assert answer.returncode == 2
    assert "pacs" in answer.stderr


def test_echo_says_what_a_destination_answers_to_queries(rig: Any) -> None:
    assert valid(json.loads(call(rig, "echo", "pacs", "--json").stdout))["query"] == "offered"
    said = call(rig, "echo", "pacs").stdout
    assert "check_study = false" in said
    assert "confirmed" in said


def test_an_alarm_stands_until_it_is_dismissed(rig: Any) -> None:
    rig.data.prepare()
    db = open_database(rig.data.database)
    for subject in ("ris", "other"):
        alarms.raised(db, subject, REASONS("relay-refused", ris=subject, status="0x0110").as_json(), time.time())
    db.close()
    told = call(rig, "status").stdout
    assert "relay-refused" in told
    assert REASONS["relay-refused"].hint["en"] in told
    assert call(rig, "dismiss", "relay-refused", "ris").returncode == 0
    assert [a["subject"] for a in rig.status()["alarms"]] == ["other"]
    assert valid(json.loads(call(rig, "dismiss", "relay-refused", "--json").stdout))["count"] == 1
    assert call(rig, "dismiss", "relay-refused").returncode == 3


def test_check_config_says_what_it_means_or_what_is_wrong(rig: Any) -> None:
    answer = call(rig, "check-config")
    assert answer.returncode == 0
    assert "run chest_ct, send to pacs (live)" in answer.stdout
    assert valid(json.loads(call(rig, "check-config", "--json").stdout))["settings"]["dicom"]["port"] == 0
    rig.configuration.write_text("[study]\nquite_s = 3\n", encoding="utf-8")
    answer = call(rig, "check-config")
    assert answer.returncode == 2
    assert "quite_s" in answer.stderr
    assert "quiet_s" in answer.stderr


def test_looking_into_a_folder_where_no_node_worked_is_wrong_use(rig: Any) -> None:
    answer = call(rig, "status", "--json")
    assert answer.returncode == 2
    assert "no node has worked here" in answer.stderr


def test_a_taken_port_stops_the_start_with_a_reason(rig: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        answer = call(rig, "serve", PACS_AI_NODE__DICOM__PORT=str(other.getsockname()[1]))
    assert answer.returncode == 1
    assert "cannot listen" in answer.stderr
    assert "dicom.port" in answer.stderr


def test_failpoints_are_refused_outside_tests(rig: Any) -> None:
    answer = call(rig, "serve", PACS_AI_NODE_FAILPOINT="job.claimed")
    assert answer.returncode == 2
    assert "PACS_AI_NODE_TESTING" in answer.stderr


def test_a_newer_database_is_refused(rig: Any) -> None:
    rig.data.prepare()
    db = open_database(rig.data.database)
    with db.write() as c:
        c.exec_driver_sql("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="99"):
        open_database(rig.data.database)
    assert call(rig, "serve").returncode == 2


def test_an_interrupted_node_ends_with_130(rig: Any) -> None:
    rig.start()
    rig.process.send_signal(signal.SIGINT)
    assert rig.process.wait(10.0) == 130


def test_a_receiver_that_dies_comes_back_on_its_port(rig: Any, ct: Any) -> None:
    rig.start()
    pid = next(p["pid"] for p in rig.status()["processes"] if p["role"] == "receiver")
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    rig.push(ct[:2])
    assert time.monotonic() - begin < 20.0


def test_a_pacs_that_was_away_gets_everything_when_it_is_back(rig: Any, ct: Any) -> None:
    port = rig.pacs.port
    rig.pacs.stop()
    rig.start()
    rig.push(ct, "WHOLE")
    rig.until(
        lambda: rig.status()["deliveries"]["waiting"] == 1 and not rig.status()["jobs"]["waiting"], 40.0, "an attempt"
    )
    told = call(rig, "show", "A000007").stdout
    assert "next attempt" in told
    assert DICOM_REASONS["peer-refused-connection"].hint["en"] in told
    assert valid(json.loads(call(rig, "status", "--json").stdout))["destinations"][0]["waiting"] == 1
    rig.pacs = LoopbackPacs(rig.folder / "pacs", "PACS", port)
    rig.idle()
    told = call(rig, "show", "A000007").stdout
    assert re.search("pacs: (delivered|confirmed)", told)
    assert "NOT RUNNING" not in told
    rig.stop()
    for command in (
        ["show", "A000007"],
        ["studies"],
        ["retry", "A000007"],
        ["cancel", "A000007"],
        ["resend", "A000007"],
    ):
        assert call(rig, *command).stdout.startswith("The node is NOT RUNNING"), command
        assert json.loads(call(rig, *command, "--json").stdout)["schema"]
        assert not call(rig, *command, "-q").stdout
    assert len(rig.results()) >= 2


def test_asking_for_the_status_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.prepare()
    assert not folder.in_use()
    asking = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(asking, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [asking]).start()
    held = folder.lock()
    assert folder.in_use()
    os.close(held)
    assert not folder.in_use()
