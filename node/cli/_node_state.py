"""The node as its administrator reads it: does it run, does it accept, who waits for whom, what needs a hand."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from node.cli._study import alarms
from node.cli._words import Words, columns, size, span

_RECENT_S = 3600.0
"""Whoever accepted something within this time is said to answer; longer ago it says nothing about now."""
_REFUSED = 8
_AT_THE_STOP = {"running": "interrupted", "sending": "interrupted"}


def tell(document: Mapping[str, Any], words: Words) -> Iterator[str]:
    """Return the lines of ``pacs-ai-node/status/1`` for a person."""
    yield from columns([row for row in _rows(document, words) if row[1]], indent=0)
    for title, lines in (
        ("Alarms", alarms(document["alarms"], words)),
        ("Destinations", _destinations(document["destinations"], words, running=document["running"])),
        ("Senders", _senders(document["senders"])),
        ("Refused", _refused(document["refused"], words)),
    ):
        if told := list(lines):
            yield from ("", title, *told)


def _rows(document: Mapping[str, Any], words: Words) -> Iterator[tuple[str, str]]:
    running = document["running"]
    first = min((p["started"] for p in document["processes"]), default=None)
    yield "node", f"running for {words.since(first)}" if running else "NOT RUNNING"
    if listens := document["listens"]:
        yield "listens", f"{', '.join(listens['ae_titles'])} on {listens['host']}:{listens['port'] or 'any free port'}"
    disk = document["disk"]
    if running:
        yield "accepts", "yes" if disk["accepting"] else f"NO: {words.text(disk['reason']['text'])}"
    yield "disk", _disk(disk)
    yield (
        "nodes",
        ", ".join(
            n["name"] + (" alive" if n["state"] == "alive" else f" {n['state'].upper()} since {words.time(n['heard'])}")
            for n in document["nodes"]
        ),
    )
    several = len(document["nodes"]) > 1
    told = [(f"{p['node']}: " if several else "", p["role"], p["pid"]) for p in document["processes"]]
    yield "processes", ", ".join(f"{node}{role} {pid}" for node, role, pid in told)
    yield "associations", str(document["associations"])
    for key in ("studies", "jobs", "deliveries", "relays", "commitments"):
        named = {state: state if running else _AT_THE_STOP.get(state, state) for state in document[key]}
        said = ", ".join(f"{count} {named[k].replace('_', ' ')}" for k, count in document[key].items() if count)
        yield key, said or ("" if key in ("relays", "commitments") else "none")
    if document["jobs"]["dead"]:
        yield "", "`pacs-ai-node studies` names the studies of dead jobs: failed"
    if count := document["withheld"]:
        yield "kept back", f"{count} results by the gate; `show` says why, then `release` or `reject`"
    yield "quarantine", f"{document['quarantine']} objects"
    yield "work", "idle" if document["idle"] else "busy" if running else "goes on when the node is started"


def _disk(disk: Mapping[str, Any]) -> str:
    said = f"{size(disk['free_bytes'])} free of {size(disk['total_bytes'])}, {size(disk['bytes_per_day'])} a day"
    return said if disk["full_in_days"] is None else f"{said}, full in {disk['full_in_days']:.0f} days"


def _destinations(rows: Sequence[Mapping[str, Any]], words: Words, *, running: bool) -> Iterator[str]:
    lines = columns(
        [
            (
                d["name"], *_known(d, words, running=running),
                ", ".join(f"{d[state]} {state}" for state in ("waiting", "dead", "quarantined") if d[state]),
                f"next try {words.until(d['next_try'])}" if d["next_try"] and running else "",
            )
            for d in rows
        ]
    )  # fmt: skip
    for d, line in zip(rows, lines, strict=True):
        yield line
        yield from words.reason(d["last_error"])


def _known(d: Mapping[str, Any], words: Words, *, running: bool) -> tuple[str, str]:
    """Say what is known of a destination and since when: nobody asks it when there is nothing to send."""
    since = words.since(d["since"])
    if d["breaker"] == "open" or (d["breaker"] == "half-open" and not running):
        return ("DOES NOT ANSWER", f"for {since}") if running else ("DID NOT ANSWER", f"since {words.time(d['since'])}")
    if d["breaker"] == "half-open":
        return "is tried", f"for {since}"
    last = d["last_accepted"]
    accepted = "nothing accepted yet" if last is None else f"last accepted {words.since(last)} ago"
    if d["last_error"]:
        return "failed last time", accepted
    if last is not None and words.age(last) <= _RECENT_S and running:
        return "answers", accepted
    return "RESULTS DID NOT ARRIVE" if d["dead"] or d["quarantined"] else "no trouble known", accepted


def _senders(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from columns(
        [
            (
                s["ae_title"], f"{s['studies']} studies", f"longest pause {span(s['longest_pause_s'])}",
                f"quiet time {span(s['quiet_s'])}", "learned" if s["learned"] else "as configured",
                f"not believed: {', '.join(s['doubted'])}" if s["doubted"] else "",
            )
            for s in rows
        ]
    )  # fmt: skip


def _refused(rows: Sequence[Mapping[str, Any]], words: Words) -> Iterator[str]:
    """Return who was turned away of late; the log and ``--json`` have the rest."""
    said = [
        (
            f"{r['calling']} at {r['peer']}" if r["calling"] else r["peer"] or "others",
            r["code"],
            f"{r['count']} times" if r["count"] > 1 else "once",
            f"last {words.since(r['last'])} ago",
        )
        for r in rows[:_REFUSED]
    ]
    yield from columns(said)
    if len(rows) > _REFUSED:
        yield f"  and {len(rows) - _REFUSED} more"
