"""Fixtures that every test may use."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.stores import PROGRAMS, STORES, Server


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Commands configure the log of their process, which is also that of the tests after them."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real studies named by PACS_AI_NODE_TEST_DATA."""
    named = os.environ.get("PACS_AI_NODE_TEST_DATA")
    if not named:
        pytest.skip("PACS_AI_NODE_TEST_DATA is not set: no real studies to test with")
    folder = Path(named)
    assert (folder / "ct").is_dir(), f"PACS_AI_NODE_TEST_DATA={named}: no folder ct in it"
    return folder


@pytest.fixture(scope="session")
def orthanc_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that runs Debian's Orthanc so that it listens on loopback only."""
    program, compiler = shutil.which("Orthanc"), shutil.which("cc")
    if program is None or compiler is None:
        pytest.skip("Orthanc, or the compiler that ties it to loopback, is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    shim, source = folder / "loopback_bind.so", Path(__file__).parent / "loopback_bind.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    runner = folder / "orthanc"
    runner.write_text(f'#!/bin/sh\nLD_PRELOAD="{shim}" exec "{program}" "$@"\n', encoding="utf-8")
    runner.chmod(0o755)
    return str(runner)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL that lives as long as these tests."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def back_end(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on both databases; the files that ask for it are the contract of the store."""
    STORES.use(request.getfixturevalue("postgres") if request.param == "postgresql" else None)
    yield request.param
    STORES.use(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where everything that tests need is there, a skipped test is a failed one."""
    if os.environ.get("PACS_AI_NODE_NO_SKIPS") == "1" and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("PACS_AI_NODE_NO_SKIPS=1, yet tests were skipped", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """See `pytest_terminal_summary`."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("PACS_AI_NODE_NO_SKIPS") == "1" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
