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
