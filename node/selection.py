"""Which of a job's objects one destination gets: its profile's, in the profile's order. Pure.

A destination that does not take the class of an object gets the profile's other choice, where there is one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicom_io.reason import Reason
from dicom_io.status import Outcome
from node.reasons import REASONS
from node.store.rows import Sent, StoredArtifact
from sr_writer.profiles import CARDS, Form, Line, Piece, Profile, table

NOT_TAKEN = frozenset({"context-refused", "peer-refused-class"})
"""Codes that say of an object that its class, or its encoding, is not taken: another one may be."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one object, in this attempt or an earlier one."""

    outcome: Outcome
    code: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of a profile as it stands for one job.

    Parameters
    ----------
    line : Line
        What is wanted.
    objects, instead : tuple[StoredArtifact, ...]
        What was written of it, and of its other choice.
    """

    line: Line
    objects: tuple[StoredArtifact, ...]
    instead: tuple[StoredArtifact, ...] = ()

    @property
    def first(self) -> tuple[StoredArtifact, ...]:
        """What is offered first."""
        return self.objects or self.instead

    def refused(self, fates: Mapping[str, Fate]) -> bool:
        """Say whether the destination does not take the class of what is offered first."""
        return any(_not_taken(fates.get(a.sop_uid)) for a in self.first)

    def second(self, fates: Mapping[str, Fate]) -> tuple[StoredArtifact, ...]:
        """Return what is offered once the first is refused."""
        return self.instead if self.objects and self.refused(fates) else ()


@dataclass(frozen=True, slots=True)
class Selected:
    """Everything that one destination gets of a job.

    Parameters
    ----------
    choices : tuple[Choice, ...]
        Those lines of the profile of which something was written.
    unwritten : tuple[Piece, ...]
        What the profile wants and nobody wrote: the destination got it later than the analysis.
    """

    choices: tuple[Choice, ...]
    unwritten: tuple[Piece, ...] = ()

    @property
    def objects(self) -> tuple[StoredArtifact, ...]:
        """What is offered first, in the order of sending."""
        return tuple(a for c in self.choices for a in c.first)

    def standing(self, sent: Mapping[str, Sent]) -> tuple[StoredArtifact, ...]:
        """Return what the destination should have, after what it has said."""
        out: list[StoredArtifact] = []
        for choice in self.choices:
            here = [a for a in (*choice.objects, *choice.instead) if a.sop_uid in sent and sent[a.sop_uid].accepted]
            out += here or [a for a in choice.first if a.sop_uid not in sent or sent[a.sop_uid].accepted]
        return tuple(out)

    def told(self, fates: Mapping[str, Fate]) -> tuple[list[Fate], Reason | None]:
        """Return what counts for the delivery, and what is remarkable about it although all is well."""
        counted: list[Fate] = []
        instead: list[Reason] = []
        left: list[tuple[str, str]] = []
        for choice in self.choices:
            offered = choice.second(fates) or choice.first
            if choice.refused(fates):
                wanted, code = choice.line.piece.form.title, _why(choice, fates)
                if choice.second(fates):
                    assert choice.line.instead is not None  # noqa: S101 - something was written for it
                    sent = choice.line.instead.form.title
                    instead.append(REASONS("sent-instead", wanted=wanted, code=code, sent=sent))
                elif not choice.line.needed:
                    left.append((wanted, code))
                    continue
            counted += [fates.get(a.sop_uid, Fate(Outcome.RETRY)) for a in offered]
        if not left:
            return counted, instead[0] if instead else None
        names, codes = (", ".join(dict.fromkeys(words)) for words in zip(*left, strict=True))
        return counted, REASONS("left-out", wanted=names, code=codes)


def select(profile: Profile, artifacts: Sequence[StoredArtifact]) -> Selected:
    """Return what a destination with `profile` gets of a job that wrote `artifacts`."""
    result = any(a.kind not in CARDS for a in artifacts)
    choices, unwritten = [], []
    for line in profile.lines(result=result):
        objects = _written(line.piece, artifacts)
        instead = () if line.instead is None else _written(line.instead, artifacts)
        if objects or instead:
            choices.append(Choice(line, objects, instead))
        elif artifacts and line.needed and table()["object"][line.piece.form.object]["always"]:
            unwritten.append(line.piece)
    return Selected(tuple(choices), tuple(unwritten))


def only(note: StoredArtifact) -> Selected:
    """Return one object that belongs to no profile: a rejection note."""
    line = Line(Piece(Form("rejection")), needed=True, instead=None)
    return Selected((Choice(line, (note,)),))


def _written(piece: Piece, artifacts: Sequence[StoredArtifact]) -> tuple[StoredArtifact, ...]:
    """Return the artifacts of a piece; of a report also one that refers to other objects, if that is all there is."""
    of_kind = sorted((a for a in artifacts if a.kind == piece.form.object), key=lambda a: a.name)
    exact = [a for a in of_kind if a.variant == piece.variant]
    alike = [a for a in of_kind if _form(a.variant) == _form(piece.variant)]
    return tuple(exact or [a for a in alike if a.variant == alike[0].variant])


def _form(variant: str) -> str:
    own = json.loads(variant) if variant else {}
    own.pop("beside", None)
    return json.dumps(own, sort_keys=True)


def _not_taken(fate: Fate | None) -> bool:
    return fate is not None and fate.outcome is Outcome.DEAD and fate.code in NOT_TAKEN


def _why(choice: Choice, fates: Mapping[str, Fate]) -> str:
    found = (fates[a.sop_uid] for a in choice.first if _not_taken(fates.get(a.sop_uid)))
    return str(next(found).code)
