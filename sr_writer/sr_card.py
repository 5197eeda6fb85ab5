"""The report of a study without a result: that it was not analysed, or that the analysis failed, and why.

References
----------
PS3.16 TID 1500, 1501.
"""

from collections.abc import Sequence
from typing import Literal

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from dicom_io.reason import Reason
from sr_writer import codes
from sr_writer.considered import Considered
from sr_writer.content import COMMENT, algorithm, coded, text_item
from sr_writer.groups import translate
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import no_result
from sr_writer.references import evidence, place
from sr_writer.sources import Sources
from sr_writer.sr import fill

_TRACKING_ID = "analysis"


def build(
    reason: Reason,
    outcome: Literal["not_analysed", "failed"],
    considered: Sequence[Considered],
    sources: Sources,
    by: Authorship,
    beside: Sequence[Dataset] = (),
    variant: str = "",
) -> Dataset:
    """Return the statement that there is no result as a report (TID 1500) with one group.

    Parameters
    ----------
    reason : Reason
        Why.
    outcome : {"not_analysed", "failed"}
        Whether it worked as designed; a report of a failure is a partial document.
    considered : Sequence[Considered]
        Series that were looked at, with what was thought of them.
    sources : Sources
        What was considered.
    by : Authorship
        Whose, by whom, when.
    beside : Sequence[Dataset]
        The other objects that say the same.
    variant : str
        What else makes it another object: everything that it says.
    """
    identity = by.identity
    first = {i.series_instance_uid: i for i in reversed(sources.instances.values())}
    images = [i for _, i in sorted(first.items())]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=by.tracking_uid(_TRACKING_ID), identifier=_TRACKING_ID),
        finding_type=coded(codes.concept("analysis")),
        algorithm_id=algorithm(by),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                coded(codes.concept("analysis_outcome")), coded(codes.concept(f"outcome_{outcome}"))
            )
        ],
        source_images=[sr.SourceImageForMeasurementGroup(i.sop_class_uid, i.sop_instance_uid) for i in images],
    )
    for tag in by.languages:
        group[0].ContentSequence.append(text_item(COMMENT, reason.text[tag], tag, by))
    translate(group[0].ContentSequence, by)
    said = {
        tag: no_result(
            reason, outcome, considered, tag,
            pipeline=identity.pipeline, version=identity.version, research=by.options.research,
        )
        for tag in by.languages
    }  # fmt: skip
    ds = new_object(
        by, kind="sr", sop_class_uid=Comprehensive3DSRStorage, modality="SR", variant=variant,
        what={"not_analysed": "not analysed", "failed": "failed"}[outcome],
    )  # fmt: skip
    fill(ds, by, codes.procedure(identity.pipeline), [group], images, beside, said)
    if outcome == "failed":
        ds.CompletionFlag, ds.CompletionFlagDescription = "PARTIAL", reason.code[:64]
    ds.CurrentRequestedProcedureEvidenceSequence = evidence([*map(place, sources.instances.values()), *beside])
    return finish(ds, by)
