"""What commands say about the database, and what they never say."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli import cli
from tests.stores import Server

pytestmark = pytest.mark.unit

URL = "postgresql+psycopg://node:geheim@127.0.0.1:1/node?connect_timeout=2"


def test_no_command_tells_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACS_AI_NODE__DATABASE__URL", URL)
    (tmp_path / "pacs-ai-node-data").mkdir()
    for arguments in (["check-config"], ["check-config", "--json"], ["doctor"], ["status"], ["serve"], ["studies"]):
        answer = CliRunner().invoke(cli, arguments)
        assert answer.exception is None or isinstance(answer.exception, SystemExit), arguments
        assert "geheim" not in answer.output
        assert "127.0.0.1:1" in answer.output, "it says which database"


def test_doctor_looks_at_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: Server) -> None:
    monkeypatch.chdir(tmp_path)
    database = postgres.fresh()
    monkeypatch.setenv("PACS_AI_NODE__DATABASE__URL", postgres.url(database))
    try:
        answer = CliRunner().invoke(cli, ["doctor", "--json"])
        rows = {row["check"]: row for row in json.loads(answer.output)["checks"]}
        assert rows["index"]["ok"]
        assert "fsync is off" in rows["database server"]["says"]
        assert "no node has worked here" in CliRunner().invoke(cli, ["status"]).output, "the data folder is elsewhere"
        (tmp_path / "pacs-ai-node-data").mkdir()
        assert json.loads(CliRunner().invoke(cli, ["status", "--json"]).output)["idle"]
    finally:
        postgres.drop(database)
