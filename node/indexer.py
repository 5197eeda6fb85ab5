"""From journals to the index. The same code follows the receivers and rebuilds everything after a loss."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from config.settings import Settings
from dicom_io.errors import UnreadableError
from dicom_io.model import Instance
from dicom_io.normalise import text_of_sender
from dicom_io.read import read_instance
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS as DICOM_REASONS
from dicom_io.same import equal_pixels
from node import alarm, identity, log, route, spool
from node.installation import DataFolder
from node.notices import noticed
from node.reasons import REASONS
from node.spool import journals, predecessor, read_journal
from node.store import Database, DatabaseFault, corrections
from node.store import index as store
from node.store.alarms import Rung
from node.store.changes import Arrived, AssociationEnded, AssociationOpened, Change, End, Lost, Removed, Repeated
from node.store.rows import Role, Version, VersionState
from sr_writer.identity import authored_by

_log = structlog.get_logger()

_ENDED: Mapping[str, End] = {"association-released": "released", "association-aborted": "aborted"}
_FACTS = ("Modality", "AccessionNumber", "PatientID", "IssuerOfPatientID", "StudyDate")
_ARRIVED = frozenset({"stored", "conflict", "recovered"})
"""A conflict may be the only record of its UID: the first object's process can have died before writing one."""
_OBJECTS = _ARRIVED | {"duplicate"}
_BECOMES: Mapping[str, VersionState] = {"conflict": "conflict", "returned": "returned", "same": "same"}
_HEARD = 10_000
"""Studies whose sender's character set has been looked at that are remembered."""

Known = dict[str, tuple[Version, ...]]


class Indexer:
    """Reads what receivers wrote, looks at each header once, and puts both into the index.

    Parameters
    ----------
    db : Database
        The index.
    folder : DataFolder
        Where spool and journals stand.
    settings : Settings
        Rules decide what counts as an image, peers which character set they really write.
    removed : Mapping[str, float]
        When (s since the epoch) retention last took an entry away, where that is known before its journal is read.
    own : Database or None
        Knows the artifacts of this installation, if `db` does not.
    steady : Callable[[], float]
        A clock that nobody sets (s), that of the timekeeper.
    ahead : Callable[[str], float]
        How far (s) the clock of a node that wrote a journal is ahead, if it is not right.
    """

    def __init__(
        self,
        db: Database,
        folder: DataFolder,
        settings: Settings,
        removed: Mapping[str, float] | None = None,
        own: Database | None = None,
        steady: Callable[[], float] = time.monotonic,
        ahead: Callable[[str], float] = lambda _node: 0.0,
    ) -> None:
        self._db = db
        self._folder = folder
        self._installation_id = folder.installation_id
        self._rules = settings.rule
        self._charsets = charsets(settings)
        self._offsets = store.offsets(db)
        self._removed, self._own, self._steady, self._ahead = removed or {}, own or db, steady, ahead
        self._ris = tuple(r.name for r in settings.ris)
        self._longest_s = settings.study.quiet_max_s
        self._changes: list[Change] = []
        self._heard: set[tuple[str, str]] = set()
        self._said: set[tuple[str, str, str]] = set()
        self._ours: set[str] = set()
        """Objects of ours among those that are being indexed."""
        self._waits = False
        """Whether a journal was left at an object whose predecessor has not been read."""
        self.behind = True
        """Whether there may have been more to index than `advance` did."""

    def advance(self) -> int:
        """Index some megabytes of what is new, a journal to its end before the next; return how many bytes that were.

        The order is that of writing: whoever reads a correction before what it corrects takes the wrong one for the last.
        Receivers that work at the same time write each a journal of its own; of one instance the numbers of its entries
        tell the order, and a journal is read on when the others have come as far.
        """
        read, self.behind = 0, True
        paths, patient = journals(self._folder.path), True
        while paths:
            before, waiting = read, []
            for path in paths:
                self._waits = False
                while step := self._follow(path, patient=patient):
                    read += step
                    if read >= spool.READ_BYTES:
                        return read
                if self._waits:
                    waiting.append(path)
            # what nobody has written down was never acknowledged, or came at the very same time
            paths, patient = waiting, read > before
        self.behind = False
        return read

    def _early(self, record: Mapping[str, Any], seen: set[str]) -> bool:
        """Say whether the object that came before this one under its UID has not been read yet."""
        if record["kind"] not in _OBJECTS:
            return False
        entry = str(record.get("entry"))
        seen.add(entry)
        before = predecessor(entry)
        if before is None or before in seen:
            return False
        sop = _storable(str(record.get("sop")))
        self._waits = all(v.entry != before for v in corrections.versions(self._db, [sop]).get(sop, ()))
        return self._waits

    def changed(self) -> list[Change]:
        """Return what has been indexed since this was last asked."""
        changes, self._changes = self._changes, []
        return changes

    def _follow(self, path: Path, *, patient: bool) -> int:
        offset = self._offsets.get(path.name, 0)
        try:
            if path.stat().st_size <= offset:
                return 0
            seen: set[str] = set()
            records, after = read_journal(path, offset, (lambda r: self._early(r, seen)) if patient else None)
        except FileNotFoundError:  # retention was quicker: everything in it had gone
            return 0
        if after == offset:
            return 0
        rung = self._index(path, (offset, after), records)
        if rung is None:
            self._offsets = store.offsets(self._db)
            return self._follow(path, patient=patient)
        for bell in rung:
            if bell.raised:
                alarm.tell(bell.code, bell.study)
            else:
                _log.info("alarm.cleared", code=bell.code, study=bell.study)
        self._offsets[path.name] = after
        return after - offset

    def _index(self, path: Path, span: tuple[int, int], records: list[dict[str, Any]]) -> tuple[Rung, ...] | None:
        """Put `records` into the index; one that does not fit there is left out and told."""
        receiver = path.stem.partition("Z-")[2]
        while True:
            uids = {_storable(str(r.get("sop"))) for r in records if r["kind"] in _OBJECTS}
            known = corrections.versions(self._db, uids)
            self._ours = store.artifacts(self._own, uids)
            made = [(r, c) for r in records if (c := self._change(r, receiver, known)) is not None]
            ahead = self._ahead(receiver.rpartition("-")[0])
            changes = [replace(change, at=change.at - ahead) if ahead else change for _, change in made]
            try:
                rung = store.index(
                    self._db, path.name, span, changes, self._hashed, self._longest_s, steady=self._steady()
                )
            except store.UnfitError as error:
                for number, fault in error.faults.items():
                    self._passed_over(made[number][0], fault)
                # without these, later ones may be something else: the first of their UID, for example
                records = [record for number, (record, _) in enumerate(made) if number not in error.faults]
                continue
            if rung is not None:
                self._changes += changes
            return rung

    def _hashed(self, study_uid: str) -> str:
        return log.study_hash(self._installation_id, study_uid)

    def _change(self, record: Mapping[str, Any], receiver: str, known: Known) -> Change | None:
        try:
            return self._understood(record, receiver, known)
        except (DatabaseFault, MemoryError):  # about this machine now, not about the record
            raise
        except Exception as error:  # noqa: BLE001 - only a broken disk or another version writes such records of ours
            self._passed_over(record, error)
            return None

    def _passed_over(self, record: Mapping[str, Any], error: Exception) -> None:
        _log.error("index.odd-record", kind=str(record["kind"]), error=type(error).__name__)
        if isinstance(entry := record.get("entry"), str):
            alarm.ring(self._db, REASONS("record-not-understood"), _storable(entry), time.time())

    def _understood(self, record: Mapping[str, Any], receiver: str, known: Known) -> Change | None:
        kind, at = record["kind"], datetime.fromisoformat(record["utc"]).timestamp()
        if kind == "association-open":
            return AssociationOpened(
                record["association"], receiver, record["calling"], record["called"], record["peer"], at
            )
        if kind in _ENDED:
            how: End = "incomplete" if record.get("refused") else _ENDED[kind]
            return AssociationEnded(record["association"], how, at)
        if kind == "duplicate" and not _is_lost(known, record["sop"], record["digest"]):
            where = (record["digest"], record["entry"])
            return Repeated(record["association"], at, record["study"], record["sop"], *where)
        if kind == "removed":
            return Removed(record["entry"], at)
        if kind == "notice":
            return replace(noticed(record, self._folder.spool), relay_to=self._ris)
        return self._arrived(record, at, known) if kind in _OBJECTS else None

    def _arrived(self, record: Mapping[str, Any], at: float, known: Known) -> Arrived:
        x = Arrived(
            association=record["association"], at=at, study_uid=record["study"], series_uid=record["series"],
            sop_uid=record["sop"], sop_class=record["sop_class"], syntax=record["syntax"], digest=record["digest"],
            bytes=record["bytes"], entry=record["entry"], role="unreadable",
        )  # fmt: skip
        path = self._folder.spool / x.entry
        try:
            instance = read_instance(path, self._charsets.get(record["calling"]))
        except UnreadableError as error:
            if not path.exists():
                return self._gone(x, "missing", known)
            x = self._unreadable(x, error.reason, known)
        else:
            if instance.digest != x.digest:
                return self._gone(x, "damaged", known)
            try:
                x = self._read(x, record, instance, known)
            except (DatabaseFault, MemoryError):  # about this machine now, not about the object
                raise
            except Exception as error:  # noqa: BLE001 - one hostile header must not keep all others from the index
                # not its text: that may quote the header
                _log.error("index.odd-header", entry=x.entry, error=type(error).__name__)
                x = self._unreadable(x, DICOM_REASONS("unparsable"), known)
        before = known.get(x.sop_uid, ())
        if _is_lost(known, x.sop_uid, x.digest):
            before = tuple(v for v in before if v.digest != x.digest)
        if all(v.digest != x.digest for v in before):
            known[x.sop_uid] = _with(before, x)
        return x

    def _unreadable(self, x: Arrived, reason: Reason, known: Known) -> Arrived:
        _log.warning("index.unreadable", entry=x.entry, reason=reason.code)
        alarm.ring(self._db, reason, x.study_uid, x.at, study=(x.study_uid, self._hashed(x.study_uid)))
        return replace(x, relation="conflict" if any(v.state == "used" for v in known.get(x.sop_uid, ())) else "first")

    def _read(self, x: Arrived, record: Mapping[str, Any], instance: Instance, known: Known) -> Arrived:
        """Add what the header says."""
        header = instance.header
        self._listen_to(record["calling"], x.study_uid, header, x.at)
        modality, accession, patient_id, issuer, date = (_storable(str(header.get(k) or "").strip()) for k in _FACTS)
        x = replace(
            x, role=self._role(header, record, modality.upper()), identity=_storable(identity.identity_of(header)),
            modality=modality, accession=accession, patient_id=patient_id, issuer=issuer, date=date,
        )  # fmt: skip
        return self._tell(self._related(x, instance, known.get(x.sop_uid, ())))

    def _listen_to(self, calling: str, study_uid: str, header: Any, at: float) -> None:  # noqa: ANN401 - a pydicom Dataset
        """Look once per study whether its sender writes the character set that it declares; `status` tells by sender."""
        if (calling, study_uid) in self._heard:
            return
        if len(self._heard) >= _HEARD:
            self._heard.clear()
        self._heard.add((calling, study_uid))
        notes, telling = text_of_sender(header)
        for note in notes:
            alarm.ring(self._db, note, calling, at)
        if telling and not notes:
            for code in ("charset-undeclared", "charset-unknown", "charset-mismatch"):
                alarm.quieten(self._db, code, calling, at)

    def _gone(self, x: Arrived, lost: Lost, known: Known) -> Arrived:
        lost = "removed" if x.at <= self._removed.get(x.entry, -math.inf) else lost
        if lost != "removed":
            _log.error("index.lost", entry=x.entry, how=lost, study=self._hashed(x.study_uid))
        before = known.get(x.sop_uid, ())
        if all(v.digest != x.digest for v in before):
            gone = Version(x.sop_uid, x.digest, x.study_uid, x.entry, "unreadable", x.identity, x.at)
            known[x.sop_uid] = (*before, gone)
        return replace(x, lost=lost)

    def _related(self, x: Arrived, instance: Instance, before: Sequence[Version]) -> Arrived:
        """Say what `x` is to the object that is used under its UID."""
        used = next((v for v in before if v.state == "used"), None)
        if used is None:
            return replace(x, relation="readable" if before else "first")
        if used.digest == x.digest:
            return x
        if used.study_uid != x.study_uid:
            return replace(x, relation="conflict", changed=("StudyInstanceUID",))
        try:
            first = read_instance(self._folder.spool / used.entry)
        except UnreadableError:
            first = None
        if first is None or first.digest != used.digest:  # taken away: nobody can say whether it is the same image
            return replace(x, relation="conflict")
        found = identity.compare(
            first.header, instance.header, (used.identity, x.identity), same_pixels=equal_pixels(first, instance)
        )
        if found.meaning == "corrected":
            earlier = (v.identity for v in before if v.state == "corrected")
            if any(identity.compare_identities(e, x.identity).meaning == "same" for e in earlier):
                return replace(x, relation="returned")
        return replace(x, relation=found.meaning, changed=found.changed)

    def _tell(self, x: Arrived) -> Arrived:
        """Say of images under known UIDs what they are, once per association and study; `show` names each."""
        about = (x.association, x.study_uid, x.relation)
        if x.relation != "first" and about not in self._said:
            if len(self._said) >= _HEARD:
                self._said.clear()
            self._said.add(about)
            tell = _log.warning if x.relation in ("conflict", "returned") else _log.info
            tell(f"index.{x.relation}", association=x.association, study=self._hashed(x.study_uid), differs=x.changed)
        return x

    def _role(self, header: Any, record: Mapping[str, Any], modality: str) -> Role:  # noqa: ANN401 - a pydicom Dataset
        if authored_by(header, self._installation_id) or _storable(str(record["sop"])) in self._ours:
            return "authored"
        return "image" if route.is_image(record["sop_class"], modality, self._rules) else "other"


def _storable(text: str) -> str:
    """Return text as UTF-8 can hold it: a character that is half of one, which some codecs give back, is a question mark."""
    return text.encode(errors="replace").decode()


def _is_lost(known: Known, sop_uid: str, digest: str) -> bool:
    """Say whether all that is known of an object is that it could not be read when it came: it is to be looked at."""
    return any(v.digest == digest and v.state == "unreadable" and v.removed is not None for v in known.get(sop_uid, ()))


def _with(before: tuple[Version, ...], x: Arrived) -> tuple[Version, ...]:
    """Return the versions of an instance once `x` has come, as `node.store.corrections` will write them down."""
    state: VersionState = _BECOMES.get(x.relation, "unreadable" if x.role == "unreadable" else "used")
    if x.relation == "corrected":
        before = tuple(replace(v, state="corrected") if v.state == "used" else v for v in before)
    return (*before, Version(x.sop_uid, x.digest, x.study_uid, x.entry, state, x.identity, None))


def lagging(db: Database, folder: DataFolder, besides: str | None = None) -> bool:
    """Say whether a journal holds records that are not indexed yet; what a killed process left half-written never is.

    Journals with `besides` in their names are left out.
    """
    offsets = store.offsets(db)
    for path in journals(folder.path):
        if besides is not None and besides in path.name:
            continue
        try:
            offset = offsets.get(path.name, 0)
            if path.stat().st_size > offset and read_journal(path, offset)[1] > offset:
                return True
        except FileNotFoundError:  # retention was quicker
            continue
    return False


def charsets(settings: Settings) -> dict[str, str]:
    """Return the character set that a sender really writes, by its AE title, where the configuration names one."""
    return {peer.ae_title.strip(): peer.charset for peer in settings.dicom.peer if peer.charset is not None}
