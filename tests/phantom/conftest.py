import pytest

import phantom
from phantom import Phantom


@pytest.fixture(scope="session")
def standard() -> Phantom:
    return phantom.build(1, thickness_mm=5.0, matrix=160)


@pytest.fixture(scope="session")
def clear() -> Phantom:
    return phantom.build(2, lesions="clear", thickness_mm=5.0, matrix=160)
