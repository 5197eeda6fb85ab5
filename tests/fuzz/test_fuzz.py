"""A short pass over every door that hostile bytes reach: the seeds and the same few thousand mutations each time."""

import itertools
import resource
import time
import warnings
from collections.abc import Iterator

import pytest

from dicom_io.commands import read_store_request
from dicom_io.read import read_instance
from tests.fuzz import targets
from tests.fuzz.material import SCRATCH, mutations
from tests.fuzz.targets import TARGETS
from tests.fuzz.wire import DOOR, PATIENCE_S, conversations, listener

pytestmark = pytest.mark.sockets


@pytest.fixture(scope="module", autouse=True)
def tidy() -> Iterator[None]:
    yield
    targets.close()


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_comes_out_in_time_and_nothing_grows(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the node; a decoder that warns has decoded
        for data in itertools.chain([b""], seeds, itertools.islice(mutations(seeds, 1), target.rounds)):
            begun = time.monotonic()
            try:
                target.one(data)
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error} by {data.hex()}") from error
            assert time.monotonic() - begun < PATIENCE_S, f"{name}: too slow by {data.hex()}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000, "KiB"


def test_the_seeds_reach_what_is_behind_the_door() -> None:
    stored = DOOR.stored
    for data in conversations():
        listener(data)
    assert DOOR.stored == stored + 3
    assert all(read_store_request(seed) is not None for seed in TARGETS["command-set"].seeds())
    assert all(read_instance(SCRATCH.put("seed.dcm", seed)) for seed in TARGETS["instance"].seeds())
