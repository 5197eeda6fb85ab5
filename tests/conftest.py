"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real studies named by PACS_AI_NODE_TEST_DATA."""
    named = os.environ.get("PACS_AI_NODE_TEST_DATA")
    if not named:
        pytest.skip("PACS_AI_NODE_TEST_DATA is not set: no real studies to test with")
    folder = Path(named)
    assert (folder / "ct").is_dir(), f"PACS_AI_NODE_TEST_DATA={named}: no folder ct in it"
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where everything that tests need is there, a skipped test is a failed one."""
    if os.environ.get("PACS_AI_NODE_NO_SKIPS") == "1" and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("PACS_AI_NODE_NO_SKIPS=1, yet tests were skipped", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """See `pytest_terminal_summary`."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("PACS_AI_NODE_NO_SKIPS") == "1" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
