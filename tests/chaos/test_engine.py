"""Connections that were opened while the folder was read-only do not stay so."""

import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from node.store import open_database

pytestmark = pytest.mark.chaos


def test_a_database_is_written_again_once_its_folder_is(tmp_path: Path) -> None:
    other = open_database(tmp_path / "node.sqlite3")  # as in a running node, where somebody always has it open
    with other.read() as c:
        c.exec_driver_sql("SELECT 1 FROM meta").all()
    if subprocess.run(["mount", "--bind", str(tmp_path), str(tmp_path)], capture_output=True, check=False).returncode:
        other.close()
        pytest.skip("mount is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path)], check=True)
        db = open_database(tmp_path / "node.sqlite3")
        with pytest.raises(sa.exc.OperationalError, match="readonly"), db.write() as c:
            c.exec_driver_sql("INSERT INTO meta VALUES ('a', 'b')")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    with db.write() as c:
        c.exec_driver_sql("INSERT INTO meta VALUES ('a', 'b')")
    db.close()
    other.close()
