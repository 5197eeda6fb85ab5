"""Which pipelines look at a study, and where their results go. Pure: rules and headers in, a plan and its reasons out.

A rule is a table of tests. It is tested per series: it fires if one series meets every test, and those series are the
candidates of its pipelines.
"""

import fnmatch
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydicom.dataset import Dataset

from config.settings import Rule, Tests

Scalar = str | int | float | bool

PRIORITIES: Mapping[str, int] = {"stat": 0, "high": 1, "routine": 2}


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """One series as rules see it: the header of its first instance, and the association that brought it."""

    series_instance_uid: str
    header: Dataset
    calling: str
    called: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What the rules ask for.

    Parameters
    ----------
    pipelines : Mapping[str, tuple[str, ...]]
        Pipeline to the Series Instance UIDs of its candidates.
    live : frozenset[str]
        Pipelines that a live rule runs; the others only run in the shadow.
    destinations : Mapping[str, tuple[str, ...]]
        Destination to the outcomes that it is told, from all live rules.
    priority : int
        The most urgent of the rules that fired: 0 stat, 1 high, 2 routine.
    matched : tuple[str, ...]
        Names of the rules that fired.
    explanation : tuple[dict, ...]
        For every rule: whether it fired, and for every series which tests it failed.
    """

    pipelines: Mapping[str, tuple[str, ...]]
    live: frozenset[str]
    destinations: Mapping[str, tuple[str, ...]]
    priority: int
    matched: tuple[str, ...]
    explanation: tuple[dict[str, Any], ...]


def plan(rules: Sequence[Rule], series: Sequence[SeriesFacts]) -> Plan:
    """Apply every rule; all that fire count, with the union of what they run and where they send."""
    pipelines: dict[str, list[str]] = {}
    live: set[str] = set()
    destinations: dict[str, list[str]] = {}
    matched, explanation = [], []
    priority = PRIORITIES["routine"]
    for rule in rules:
        verdicts = [(s, _failures(rule.when, s)) for s in series]
        hits = [s.series_instance_uid for s, failed in verdicts if not failed]
        explanation.append(_explain(rule, verdicts, fired=bool(hits)))
        if not hits:
            continue
        matched.append(rule.name)
        priority = min(priority, PRIORITIES[rule.priority])
        for name in rule.run:
            candidates = pipelines.setdefault(name, [])
            candidates.extend(uid for uid in hits if uid not in candidates)
        if rule.mode == "live":
            live.update(rule.run)
            for name in rule.send_to:
                told = destinations.setdefault(name, [])
                told.extend(t for t in rule.tell if t not in told)
    return Plan(
        {name: tuple(sorted(uids)) for name, uids in pipelines.items()},
        frozenset(live),
        {name: tuple(told) for name, told in destinations.items()},
        priority,
        tuple(matched),
        tuple(explanation),
    )


@cache
def _not_images() -> Mapping[str, Any]:
    return tomllib.loads(files("node").joinpath("not_images.toml").read_text(encoding="utf-8"))


def is_image(sop_class: str, modality: str, rules: Sequence[Rule]) -> bool:
    """Say whether an object opens, extends and revises studies.

    Reports, segmentations, presentation states, documents and pictures that other makers derived do not, unless a rule
    names their modality or SOP class (without wildcards).
    """
    table = _not_images()
    by_class = any(sop_class == root or sop_class.startswith(f"{root}.") for root in table["sop_classes"])
    by_modality = modality in table["modalities"]
    if not by_class and not by_modality:
        return True
    # a rule for CT does not name a screenshot whose modality says CT
    names = {sop_class, modality} if by_modality else {sop_class}
    return any(names & _named(rule) for rule in rules)


def _named(rule: Rule) -> set[str]:
    tests = [rule.when[key] for key in ("Modality", "SOPClassUID") if key in rule.when]
    return {str(value) for test in tests if not isinstance(test, Mapping) for value in _many(test)}


def missing(rules: Sequence[Rule], series: Sequence[SeriesFacts]) -> tuple[str, ...]:
    """Return what rules that fire require and no series meets: ``rule: tests``."""
    return tuple(
        f"{rule.name}: {_told(tests)}"
        for rule in rules
        if rule.require and any(not _failures(rule.when, s) for s in series)
        for tests in rule.require
        if all(_failures(tests, s) for s in series)
    )


def counts(modality: str, rules: Sequence[Rule]) -> bool:
    """Say whether a series of this modality is one of images, as far as its modality tells: see `is_image`."""
    picture = modality in _not_images()["pictures"] and not any(modality in _named(rule) for rule in rules)
    return not picture and is_image("", modality, rules)


def _told(tests: Tests) -> str:
    return ", ".join(f"{key} = {test!r}" for key, test in tests.items())


def _failures(tests: Tests, series: SeriesFacts) -> dict[str, dict[str, Any]]:
    """Return the tests that `series` fails, each with what was wanted and what was found."""
    failed = {}
    for key, test in tests.items():
        found = _values(key, series)
        if not meets(test, found):
            wanted = dict(test) if isinstance(test, Mapping) else test
            failed[key] = {"wanted": wanted, "found": [str(v) for v in found]}
    return failed


def _explain(rule: Rule, verdicts: Sequence[tuple[SeriesFacts, Mapping[str, Any]]], *, fired: bool) -> dict[str, Any]:
    series = [
        {"series_instance_uid": s.series_instance_uid, "matched": not failed, "failed": dict(failed)}
        for s, failed in verdicts
    ]
    return {"rule": rule.name, "matched": fired, "mode": rule.mode, "series": series}


def _values(key: str, series: SeriesFacts) -> tuple[Any, ...]:
    """Return every value that `key` names in a series; values of all items of a sequence, none if absent or empty."""
    if key == "CallingAETitle":
        return (series.calling,) if series.calling else ()
    if key == "CalledAETitle":
        return (series.called,) if series.called else ()
    return tuple(v for v in _walk(series.header, key.split(".")) if str(v).strip())


def _walk(dataset: Dataset, path: Sequence[str]) -> Iterator[Any]:
    value: Any = dataset.get(path[0])
    if value is None:
        return
    if len(path) > 1:
        items = value if hasattr(value, "__iter__") and not isinstance(value, str) else ()
        for item in items:
            if isinstance(item, Dataset):
                yield from _walk(item, path[1:])
        return
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") or hasattr(value, "components"):
        yield value
    else:
        yield from value


def meets(test: object, found: Sequence[Any]) -> bool:
    """Say whether the values `found` (none: absent or empty) meet one test.

    A scalar or list: any value equals any of them; ``""`` stands for absent. A table: every entry holds; ``not`` and
    ``missing`` look at presence, ``ge`` and ``le`` at numbers.
    """
    if isinstance(test, Mapping):
        return all(_meets_entry(key, value, found) for key, value in test.items())
    return any(_equal(wanted, found) for wanted in _many(test))


def _meets_entry(key: str, value: object, found: Sequence[Any]) -> bool:
    if key == "not":
        return not meets(value, found)
    if key == "missing":
        return bool(value) == (not found)
    numbers = [n for n in (_number(v) for v in found) if n is not None]
    bound = _number(value)
    if bound is None:
        return False
    return any(n >= bound if key == "ge" else n <= bound for n in numbers)


def _equal(wanted: object, found: Sequence[Any]) -> bool:
    if wanted == "":
        return not found
    number = _number(wanted) if isinstance(wanted, (int, float)) and not isinstance(wanted, bool) else None
    if number is not None:
        return any(_number(v) == number for v in found)
    pattern = str(wanted).strip().casefold().replace("[", "[[]")
    return any(fnmatch.fnmatchcase(str(v).strip().casefold(), pattern) for v in found)


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _many(test: object) -> Sequence[Any]:
    return test if isinstance(test, (tuple, list)) else (test,)
