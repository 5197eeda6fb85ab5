"""A display test: one of each object that any profile knows, numbered, so that a site sees what its viewer shows.

It is about a phantom, in a study of its own, and says so; what a destination takes decides which profiles it can have.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from dicom_io.model import Study
from dicom_io.reason import Reason
from dicom_io.scu import StoreReport
from dicom_io.status import Outcome
from node.reasons import REASONS
from node.transport import Transport
from pipeline.api import Pipeline
from pipeline.result import Mask, Quality, QualityFinding, Result
from sr_writer import gate, write
from sr_writer.gate_claim import Claim
from sr_writer.identity import AnalysisIdentity
from sr_writer.numbering import in_viewing_order
from sr_writer.options import WriterOptions
from sr_writer.profiles import SYNTAXES, Form, Item, Profile, shipped, table
from sr_writer.write import Artifact

PATIENT_NAME = "AI^DISPLAY TEST"
FIRST_NUMBER = 951
"""Series Number (0020,0011) of the first object; the others follow it."""


class ProbeError(Exception):
    """The display test could not be made; the text says why."""


@dataclass(frozen=True, slots=True)
class Test:
    """One object of the display test.

    Parameters
    ----------
    number : int
        Stands in its series description.
    form : Form
        As a profile names it.
    item : Item
        As it is sent: with the number.
    """

    number: int
    form: Form
    item: Item

    @property
    def look(self) -> Mapping[str, str]:
        """Language to what to look for."""
        found: Mapping[str, str] = table()["object"][self.form.object]["look"]
        return found


@dataclass(slots=True)
class Found:
    """What became of one object at a destination."""

    test: Test
    artifacts: list[Artifact] = field(default_factory=list)
    reports: list[StoreReport] = field(default_factory=list)

    @property
    def taken(self) -> bool:
        """Whether every instance of it was."""
        done = (Outcome.DELIVERED, Outcome.DELIVERED_WITH_WARNING)
        return len(self.reports) == len(self.artifacts) > 0 and all(r.outcome in done for r in self.reports)

    @property
    def reason(self) -> Reason | None:
        """Why not, or what was remarkable."""
        return next((r.reason for r in self.reports if r.reason is not None), None)


def tests(wants: Profile) -> tuple[Test, ...]:
    """Return the objects of the display test: every form of every profile and of `wants`, and those of the table's ``probe``."""
    items = [i for profile in (*shipped().values(), wants) for i in profile.items]
    forms = [f for i in items for f in (i.form, i.instead) if f is not None]
    forms += [Form(**row) for row in table()["probe"]["objects"]]
    order = list(table()["object"])
    rows = sorted(dict.fromkeys(forms), key=lambda form: order.index(form.object))
    return tuple(
        Test(n, f, Item(**{**f.own, "object": f.object, "series_number": FIRST_NUMBER + n - 1,
                           "description": f"TEST {n:02d} {f.title}"[:40]}))
        for n, f in enumerate(rows, start=1)
    )  # fmt: skip


def author(
    study: Study, pipeline: Pipeline, installation_id: str, writer: WriterOptions, now: datetime, out: Path,
    wants: Profile,
) -> list[Found]:  # fmt: skip
    """Write the display test about `study` into `out`, and let the gate judge it; with it what the profile `wants` has.

    Raises
    ------
    ProbeError
        If the pipeline has no result for the study, or the gate refuses an object.
    PipelineError
        If the pipeline cannot work.
    """
    chosen = pipeline.select(study).chosen
    if chosen is None:
        raise ProbeError(f"{pipeline.name} does not take the test images")
    analysis = pipeline.run(chosen, None)
    result = in_viewing_order(analysis.result)
    bad = graded(result)
    identity = AnalysisIdentity.of(
        installation_id=installation_id, study_instance_uid=study.study_instance_uid, instances=chosen.instances,
        pipeline=pipeline.name, version=pipeline.version, weights_digest=pipeline.weights_digest,
        options_digests=(pipeline.options_digest, writer.digest),
    )  # fmt: skip
    found = [Found(test) for test in tests(wants)]
    items = [one.test.item for one in found]
    # no report refers to a label map: that shows another result, see `apart`
    rest = Profile("probe", tuple(i for i in items if i.encoding != "labelmap" and i.object != "quality_kos"))
    of_bad = Profile("bad grades", tuple(i for i in items if i.object == "quality_kos"))
    label_maps = Profile("label maps", tuple(i for i in items if i.encoding == "labelmap"))
    results, maps, grades, cards = (
        [line.piece for line in profile.lines(result=yes)]
        for profile, yes in ((rest, True), (label_maps, True), (of_bad, True), (rest, False))
    )
    pieces = {p.form: p for p in (*results, *maps, *grades, *cards)}
    analyses = (
        write.write_result(
            result, analysis.volume, chosen, identity, writer, out / "result", now, pieces=results
        ),
        write.write_result(
            apart(result), analysis.volume, chosen, identity, writer, out / "label-maps", now, pieces=maps
        ),
        write.write_result(bad, analysis.volume, chosen, identity, writer, out / "grades", now, pieces=grades),
        write.write_card(
            REASONS("display-test"), "not_analysed", study, identity, writer, out / "cards", now, pieces=cards
        ),
    )  # fmt: skip
    said = {"quality": bad.quality.as_json(), "measurements": (), "findings": (), "notes": (), "summary": {}}
    claims = (None, None, Claim.of(bad, said), None)  # what is said of bad images needs a grade to be held against
    judged = zip(analyses, claims, strict=True)
    if refusals := [r for written, claim in judged for r in gate.check(written, chosen.instances, claim=claim)]:
        raise ProbeError(f"{refusals[0].artifact.name}: {refusals[0].reason.text['en']}")
    for one in found:
        key = pieces[one.test.item.form].key
        one.artifacts = [a for written in analyses for a in written if (a.kind, a.variant) == key]
    return found


def graded(result: Result) -> Result:
    """Return a result that is nothing but a bad grade: what is written of those alone is seen, too."""
    bad = QualityFinding(REASONS("display-test-grade"), "series", (result.series_instance_uid,), grade="C")
    return replace(
        result,
        pipeline="ct_quality",
        quality=Quality("C", (bad,)),
        segments=(),
        findings=(),
        measurements=(),
        suggestions=(),
    )


def apart(result: Result) -> Result:
    """Return a result whose segments share no voxel, as a label map needs it: what comes later covers what came before."""
    free = np.ones(result.geometry.shape, bool)
    kept = []
    for segment in reversed(result.segments):
        whole = np.zeros(result.geometry.shape, bool)
        segment.mask.paint(whole)
        kept.append(replace(segment, mask=Mask.of(whole & free)))
        free &= ~whole
    left = [s for s in reversed(kept) if s.mask.voxels]
    renumbered = tuple(replace(s, number=n) for n, s in enumerate(left, start=1))
    return replace(result, segments=renumbered, findings=())


def send(transport: Transport, images: Sequence[Path], found: Sequence[Found]) -> tuple[StoreReport, ...]:
    """Send the images, then the objects; return what became of the images, and put what became of each object into `found`.

    If an image is not taken, no object is sent.
    """
    of_images = tuple(transport.store(images))
    if any(r.outcome not in (Outcome.DELIVERED, Outcome.DELIVERED_WITH_WARNING) for r in of_images):
        return of_images
    whose = {a.path: one for one in found for a in one.artifacts}
    for report in transport.store(list(whose)):
        whose[report.path].reports.append(report)
    return of_images


def whole(profile: Profile, found: Sequence[Found]) -> bool:
    """Say whether a destination took everything that a profile needs, or what stands in for it."""
    taken = {one.test.form for one in found if one.taken}
    return all(i.form in taken or i.instead in taken or not i.needed for i in profile.items)


def gets(profile: Profile, found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield what a destination with `profile` would get of each of its objects, as JSON; `sent` null: it is not taken."""
    taken = {one.test.form for one in found if one.taken}
    for item in profile.items:
        sent = next((f for f in (item.form, item.instead) if f is not None and f in taken), None)
        yield {"wanted": item.form.title, "sent": sent and sent.title, "needed": item.needed}


def rows(found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield what became of each object, as JSON."""
    for one in found:
        test, first = one.test, one.artifacts[0] if one.artifacts else None
        yield {
            "number": test.number, "object": test.form.object, "form": test.form.title,
            "name": dict(table()["object"][test.form.object]["name"]), "series_number": test.item.number,
            "series_instance_uid": first and first.series_instance_uid, "sop_class_uid": first and first.sop_class_uid,
            "transfer_syntax_uid": SYNTAXES[test.form.compression], "instances": len(one.artifacts),
            "taken": one.taken, "reason": None if one.reason is None else one.reason.as_json(), "look": dict(test.look),
            "profiles": [
                p.name for p in shipped().values() if any(test.form in (i.form, i.instead) for i in p.items)
            ],
        }  # fmt: skip
