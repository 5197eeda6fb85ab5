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


def image_reference(image: Instance) -> Dataset:
    """Return a reference to one image, by its frame number where the instance has several."""
    item = reference(image.sop_class_uid, image.sop_instance_uid)
    if image.frame:
        item.ReferencedFrameNumber = image.frame
    return item


def frame_numbers(image: Instance) -> list[int] | None:
    """Return the frame number of an image as content items take it."""
    return [image.frame] if image.frame else None


def source_image(image: Instance) -> Dataset:
    """Return a reference to an image that something was made from, with its purpose."""
    item = image_reference(image)
    item.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE)]
    return item


def place(instance: Instance) -> Dataset:
    """Return Study, Series, SOP Class and SOP Instance UID of a source, as `evidence` takes them."""
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = instance.study_instance_uid, instance.series_instance_uid
    ds.SOPClassUID, ds.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    return ds


def evidence(instances: Iterable[Dataset]) -> list[Dataset]:
    """Return the items, by study and series, that refer to `instances`: sources by way of `place`, or our own objects.

    Each stands there once, whichever of its frames are meant.
    """
    tree: dict[str, dict[str, dict[str, Dataset]]] = {}
    for instance in instances:
        series = tree.setdefault(instance.StudyInstanceUID, {})
        item = reference(instance.SOPClassUID, instance.SOPInstanceUID)
        series.setdefault(instance.SeriesInstanceUID, {}).setdefault(instance.SOPInstanceUID, item)
    studies = []
    for study_uid, series in tree.items():
        study = Dataset()
        study.StudyInstanceUID = study_uid
        study.ReferencedSeriesSequence = [_series(uid, list(items.values())) for uid, items in series.items()]
        studies.append(study)
    return studies


def referenced_series(images: Sequence[Instance]) -> list[Dataset]:
    """Return the items of Referenced Series Sequence (0008,1115) within one study, each with its images."""
    tree: dict[str, dict[str, list[Instance]]] = {}
    for image in images:
        tree.setdefault(image.series_instance_uid, {}).setdefault(image.sop_instance_uid, []).append(image)
    series = []
    for uid, instances in tree.items():
        items = [image_reference(some[0]) for some in instances.values()]
        for item, some in zip(items, instances.values(), strict=True):
            if len(some) > 1:
                item.ReferencedFrameNumber = [image.frame for image in some]
        series.append(_series(uid, items, "ReferencedImageSequence"))
    return series


def _series(uid: str, items: Sequence[Dataset], keyword: str = "ReferencedSOPSequence") -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = uid
    setattr(series, keyword, list(items))
    return series
