"""References to instances as documents write them.

References
----------
PS3.3 section C.17.2.1 (Hierarchical SOP Instance Reference macro), table 10-11 (SOP Instance Reference macro).
"""

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset

from dicom_io.model import Instance
from pipeline.result import Code
from sr_writer.codes import coded

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")


def reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Return a reference to one instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def source_image(instance: Instance) -> Dataset:
    """Return a reference to an image that something was made from, with its purpose."""
    item = reference(instance.sop_class_uid, instance.sop_instance_uid)
    item.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE)]
    return item


def place(instance: Instance) -> Dataset:
    """Return Study, Series, SOP Class and SOP Instance UID of a source, as `evidence` takes them."""
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = instance.study_instance_uid, instance.series_instance_uid
    ds.SOPClassUID, ds.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    return ds


def evidence(instances: Iterable[Dataset]) -> list[Dataset]:
    """Return the items, by study and series, that refer to `instances`: sources by way of `place`, or our own objects."""
    tree: dict[str, dict[str, list[Dataset]]] = {}
    for instance in instances:
        series = tree.setdefault(instance.StudyInstanceUID, {})
        item = reference(instance.SOPClassUID, instance.SOPInstanceUID)
        series.setdefault(instance.SeriesInstanceUID, []).append(item)
    studies = []
    for study_uid, series in tree.items():
        study = Dataset()
        study.StudyInstanceUID = study_uid
        study.ReferencedSeriesSequence = [_series(uid, items) for uid, items in series.items()]
        studies.append(study)
    return studies


def referenced_series(instances: Sequence[Instance]) -> list[Dataset]:
    """Return the items of Referenced Series Sequence (0008,1115) within one study, each with its images."""
    tree: dict[str, list[Dataset]] = {}
    for instance in instances:
        item = reference(instance.sop_class_uid, instance.sop_instance_uid)
        tree.setdefault(instance.series_instance_uid, []).append(item)
    return [_series(uid, items, "ReferencedImageSequence") for uid, items in tree.items()]


def _series(uid: str, items: Sequence[Dataset], keyword: str = "ReferencedSOPSequence") -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = uid
    setattr(series, keyword, list(items))
    return series
