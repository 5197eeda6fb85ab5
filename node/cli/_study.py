"""One study as its administrator reads it: what came of it first, then what needs a hand, then how it went."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from node.cli._words import Words, columns
from node.reasons import REASONS

_ARRIVED = ("delivered", "confirmed")
_STATES = {
    "open": "Images are arriving; nothing is decided yet",
    "early": "Looks complete: work has begun, nothing leaves yet",
    "closed": "Complete",
}
_UNSAID = {"result": "result", "waiting": "waits for a worker", "superseded": "superseded", "cancelled": "cancelled"}
_PROOFS = {
    "waiting": "arrival not yet proven",
    "again": "sent again, arrival not yet proven",
    "find": "arrival proven by a query",
    "commitment": "committed there",
    "none": "no proof asked for",
    "not-offered": "no proof: it answers no queries",
    "unanswered": "no proof: the question was not answered",
    "missing": "NOT FOUND THERE",
}
_OVER = ("cancelled", "superseded")
_WHAT = {"refused": "kept back by the gate", "rejection": "rejection note"}
_IN_TIMELINE = frozenset({"utc", "event", "rules", "unknown_at", "made"})


def tell(document: Mapping[str, Any], words: Words, *, verbose: bool = False) -> Iterator[str]:
    """Return the lines of ``pacs-ai-node/show/1`` for a person; the rules one by one only if `verbose`."""
    yield from _head(document, words)
    for title, lines in (
        ("Alarms", alarms(document["alarms"], words, of_study=True)),
        ("Patients", _patients(document["patients"])),
        ("Jobs", _jobs(document["jobs"], words)),
        ("Deliveries", _deliveries(document["deliveries"], words)),
        ("Corrections of identity", _corrections(document["corrections"], words)),
        (f"Timeline, {words.zone_name()}", _timeline(document["timeline"], words)),
        ("Rules", _rules(document, verbose=verbose)),
    ):
        if told := list(lines):
            yield from ("", title, *told)


def alarms(rows: Sequence[Mapping[str, Any]], words: Words, *, of_study: bool = False) -> Iterator[str]:
    """Return what a person must look at, with what to do; the subject is said unless it is the study itself."""
    for row in rows:
        subject = "" if of_study else f"  {row['subject'] or 'this node'}"
        yield f"  {row['code']}{subject}  since {words.time(row['raised'])}"
        yield from words.reason(row["reason"])


def _head(document: Mapping[str, Any], words: Words) -> Iterator[str]:
    yield f"Study {document['study_instance_uid']}"
    named = (("accession", "accession"), ("patient", "patient_id"), ("date", "date"), ("hash", "hash"))
    yield "  " + "  ".join(f"{label} {document[key]}" for label, key in named if document[key])
    revision = f", revision {document['revision']}" if document["revision"] > 1 else ""
    counted = f"{document['instances']} images in {document['series']} series"
    yield f"  {_STATES[document['state']]}{revision}: {counted}."
    for wait in document["waiting_for"]:
        yield f"  Waits until {words.until(wait['until'])} at the latest: {words.text(wait['detail'])}"
    for job in _present(document):
        about = "" if job["subject"] == "study" else f" of {job['subject']}"
        yield f"  {job['pipeline'] or 'No pipeline'}{about}: {_came_of(job, document['deliveries'], words)}"
    if count := len(document["alarms"]):
        yield f"  {count} alarm{'s' if count > 1 else ''}: a person should look."


def _present(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the last word about the study, once its work has begun, and about its series and images, whatever it waits for."""
    last = {(job["pipeline"], job["subject"]): job for job in document["jobs"] if job["subject"] != "study"}
    own = [job for job in document["jobs"] if job["subject"] == "study" and job["revision"] == document["revision"]]
    return [*(own if document["state"] != "open" else ()), *last.values()]


def _came_of(job: Mapping[str, Any], deliveries: Sequence[Mapping[str, Any]], words: Words) -> str:
    """Say in one line how a job stands and where its objects are."""
    if job["outcome"] == "running":
        share = "" if job["progress"] is None else f" {job['progress']:.0%}"
        return f"running {job['stage'] or ''}{share}".rstrip()
    said = _UNSAID.get(job["outcome"], job["outcome"].replace("_", " "))
    if job["outcome"] == "result" and job["quality"]:
        said += f", image quality {job['quality']['grade']}"
    if job["reason"]:
        said += f" ({words.text(job['reason']['text'])})"
    own = [d for d in deliveries if d["job"] == job["job"] and d["what"] == "objects"]
    places = "; ".join(f"{d['destination']}: {d['state']}" for d in own)
    return f"{said}. {places}" if places else said


def _patients(patients: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which images are whose."""
    for one in patients:
        yield f"  {one['patient_id'] or 'no patient ID'}: {one['images']} images in {len(one['series'])} series"
        yield from (f"    {series}" for series in one["series"])


def _jobs(jobs: Sequence[Mapping[str, Any]], words: Words) -> Iterator[str]:
    rows = [
        (
            str(job["job"]), job["pipeline"] or "-", f"revision {job['revision']}",
            job["outcome"] + (f", {job['quality']['grade']}" if job["outcome"] == "result" and job["quality"] else ""),
            f"attempt {job['attempts']}" if job["attempts"] > 1 else "",
            f"again {words.until(job['not_before'])}" if job["not_before"] else words.time(job["ended"]),
        )
        for job in jobs
    ]  # fmt: skip
    for job, line in zip(jobs, columns(rows), strict=True):
        yield line
        if job["subject"] != "study":
            yield f"    about {job['subject']}"
        yield from words.reason(job["reason"])
        yield from _withheld(job.get("withheld"), words)
        for left in job["replaced"]:
            yield f"    {left['modality']} {left['sop_instance_uid']} left at {', '.join(left['left_at'])}, replaced"
        if job["outcome"] == "result" and job["carried_from"] is None:
            yield from columns([_measured(m) for m in job["measurements"]], indent=4)


def _withheld(kept: Mapping[str, Any] | None, words: Words) -> Iterator[str]:
    """Return what the gate keeps back, why, where it stands, and what a person has decided or may decide."""
    if not kept:
        return
    if decision := kept["decision"]:
        said = {"by": decision["by"], "when": words.time(decision["utc"]), "why": decision["why"]}
        yield from words.reason(REASONS(f"withheld-{decision['what']}", **said).as_json())
    else:
        yield from words.reason(REASONS("withheld" if kept["releasable"] else "withheld-for-good").as_json())
    for refused in kept["objects"]:
        yield f"      {refused['modality']} {refused['path']}"
        for reason in refused["reasons"]:
            yield from words.reason(reason, indent=8)


def _measured(m: Mapping[str, Any]) -> tuple[str, str, str]:
    if m["value"] is None:
        return m["name"], m["site"], "not computable"
    return m["name"], m["site"], f"{'at least ' if m['status'] == 'lower_bound' else ''}{m['value']:.1f} {m['unit']}"


def _deliveries(deliveries: Sequence[Mapping[str, Any]], words: Words) -> Iterator[str]:
    rows = [
        (
            d["destination"], f"job {d['job']}", _WHAT.get(d["what"], ""), d["state"],
            f"attempt {d['attempts']}" if d["attempts"] > 1 else "", _next(d, words),
        )
        for d in deliveries
    ]  # fmt: skip
    for d, line in zip(deliveries, columns(rows), strict=True):
        yield line
        if d["state"] in _OVER:  # what once went wrong there is of no concern any more
            continue
        yield from words.reason(d["last_error"] or _why(d))
        yield from words.reason(_went(d))
        if (d["last_error"] or {}).get("code") != "sent-instead":
            for sent, wanted in dict.fromkeys((o["kind"], o["instead_of"]) for o in d["objects"] if o["instead_of"]):
                yield from words.reason(REASONS("object-instead", sent=sent, wanted=wanted).as_json())
        yield from words.reason(_rejects(d))
        if d["not_written"]:
            missing = REASONS("object-not-written", profile=d["profile"], what=", ".join(d["not_written"]))
            yield from words.reason(missing.as_json())
        for refused, count in _refused(d["objects"]):
            status = f" {refused['status']}" if refused["status"] else ""
            which = refused["sop_instance_uid"] if count == 1 else f"{count} objects"
            yield f"      {refused['modality']} {which} refused{status}"
            yield from words.reason(refused["reason"], indent=8)


def _went(d: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Say which objects a delivery has brought, by the words of the profile."""
    there = [o for o in d["objects"] if o["state"] == "accepted"]
    if not there or not d["profile"] or d["what"] != "objects":
        return None
    return REASONS("objects-brought", profile=d["profile"], what=_kinds(o["kind"] for o in there)).as_json()


def _rejects(d: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Say what a rejection note names."""
    if not d["rejects"]:
        return None
    revisions = ", ".join(str(n) for n in sorted({r["revision"] for r in d["rejects"]}))
    what = _kinds(r["kind"] for r in d["rejects"])
    return REASONS("objects-rejected", revisions=revisions, what=what).as_json()


def _kinds(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in Counter(kinds).items())


def _refused(objects: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield refused objects, those of one kind with one answer once, and how many these are."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for o in objects:
        if o["state"] == "refused":
            groups.setdefault((o["kind"], o["status"], str(o["reason"])), []).append(o)
    yield from ((group[0], len(group)) for group in groups.values())


def _next(d: Mapping[str, Any], words: Words) -> str:
    """Say when it is tried next, or when it ended and how sure that is."""
    if d["next_attempt"] and d["state"] in ("held", "waiting"):
        return f"next attempt {words.until(d['next_attempt'])}"
    notes = [words.time(d["ended"])]
    if d["state"] in _ARRIVED:
        if d["proof"]:
            notes.append(_PROOFS.get(d["proof"], f"proof: {d['proof']}"))
        if d["identity"] in ("not-offered", "off"):
            notes.append("identity there was not checked")
    return ", ".join(note for note in notes if note)


def _why(d: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return why a delivery that never failed has not arrived."""
    if d["state"] not in ("held", "waiting"):
        return None
    if d["state"] == "held" and d["next_attempt"] is None:
        return REASONS("delivery-not-published").as_json()
    return REASONS("delivery-queued" if d["breaker"] == "closed" else "delivery-behind-others").as_json()


def _corrections(corrections: Sequence[Mapping[str, Any]], words: Words) -> Iterator[str]:
    for correction in corrections:
        gone = f"{len(correction['delivered'])} objects had left, {correction['cancelled']} not yet sent cancelled"
        if places := correction["unknown_at"]:
            gone = f"unknown what had left, the database that knew it is lost: look at {', '.join(places)}"
        yield f"  {words.time(correction['utc'])}  {gone}"
        yield from columns(
            [(o["destination"], o["state"], o["sop_instance_uid"]) for o in correction["delivered"]], indent=4
        )


def _timeline(entries: Sequence[Mapping[str, Any]], words: Words) -> Iterator[str]:
    rows = [(words.time(entry["utc"]), entry["event"], _facts(entry, words)) for entry in entries]
    yield from columns(rows)


def _facts(entry: Mapping[str, Any], words: Words) -> str:
    told = {k: v for k, v in entry.items() if k not in _IN_TIMELINE and v not in (None, "", [], {})}
    if waited := told.pop("waited_for", None):
        told["why"] = " ".join(words.text(w["detail"]) for w in waited)
    if "until" in told:
        told["until"] = words.time(told["until"])
    return "  ".join(f"{key}={_flat(value, words)}" for key, value in told.items())


def _flat(value: object, words: Words) -> str:
    if isinstance(value, Mapping):
        if "en" in value:
            return words.text(value)
        if "text" in value:
            return words.text(value["text"])
        return ", ".join(f"{k} {_flat(v, words)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_flat(v, words) for v in value)
    return str(value)


def _rules(document: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    """Say for the newest routing why each rule fired or not: in full if asked for, or if none did."""
    routed = [entry for entry in document["timeline"] if entry["event"] == "routed"]
    if not routed:
        return
    rules = routed[-1]["rules"]
    if verbose or not any(rule["matched"] for rule in rules):
        yield from (f"  {rule['rule']}: {_verdict(rule)}" for rule in rules)
    else:
        fired = [rule["rule"] for rule in rules if rule["matched"]]
        yield f"  {len(fired)} of {len(rules)} fired: {', '.join(fired)}; -v says why, and why not"


def _verdict(rule: Mapping[str, Any]) -> str:
    """Say in one line why a rule fired or not."""
    if rule["matched"]:
        hits = [s["series_instance_uid"] for s in rule["series"] if s["matched"]]
        return f"fires for {len(hits)} of {len(rule['series'])} series ({rule['mode']})"
    tests = {
        f"{key} is {', '.join(t['found']) or 'absent'}, wanted {t['wanted']}"
        for s in rule["series"]
        for key, t in s["failed"].items()
    }
    return "does not fire: " + "; ".join(sorted(tests))
