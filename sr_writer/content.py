"""Content items that all documents share: who observed, in which language, what is said in words.

References
----------
PS3.16 TID 1204 (Language of Content Item and Descendants), TID 1002 and 1004 (Observer Context, Device).
"""

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import UID, SecondaryCaptureImageStorage, SegmentationStorage

from dicom_io.model import Instance
from dicom_io.reason import LANGUAGE_CODES
from pipeline.result import Code
from sr_writer.codes import DESIGNATOR, SCHEME_VERSION
from sr_writer.device import MANUFACTURER, MODEL_NAME
from sr_writer.header import Authorship
from sr_writer.identity import AnalysisIdentity, installation_uid
from sr_writer.references import frame_numbers
from sr_writer.seg_frames import LABEL_MAP_STORAGE

COMMENT = DicomCode("121106", "DCM", "Comment")
LANGUAGES = {tag: sr.CodedConcept(value, "RFC5646", meaning) for tag, (value, meaning) in LANGUAGE_CODES.items()}
_IMAGES = {SegmentationStorage, LABEL_MAP_STORAGE, SecondaryCaptureImageStorage}
"""What of ours is referred to as an image; documents and presentation states are not."""
_LANGUAGE = DicomCode("121049", "DCM", "Language of Content Item and Descendants")
_DEVICE = DicomCode("121007", "DCM", "Device")


def observer(identity: AnalysisIdentity) -> sr.ObservationContext:
    """Return the node as the device that observed."""
    serial = installation_uid(identity.installation_id)
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=sr.CodedConcept(*_DEVICE),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=serial, name=MODEL_NAME, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME,
                serial_number=serial,
            ),
        )
    )  # fmt: skip


def algorithm(by: Authorship) -> sr.AlgorithmIdentification:
    """Return who computed (TID 4019): name, version, digests of weights and options."""
    identity = by.identity
    return sr.AlgorithmIdentification(
        name=identity.pipeline, version=identity.version,
        parameters=[f"weights {identity.weights_digest}", f"options {identity.options_digest}"],
    )  # fmt: skip


def coded(code: Code) -> sr.CodedConcept:
    """Return a code as highdicom takes it."""
    version = SCHEME_VERSION if code.scheme == DESIGNATOR else None
    return sr.CodedConcept(code.value, code.scheme, code.meaning, version)


def language(tag: str) -> sr.CodeContentItem:
    """Return the modifier that names the language of the item that it stands in."""
    return sr.CodeContentItem(name=_LANGUAGE, value=LANGUAGES[tag], relationship_type="HAS CONCEPT MOD")


def text_item(
    name: DicomCode, text: str, tag: str | None, by: Authorship, relationship: str = "CONTAINS"
) -> sr.TextContentItem:
    """Return a text; it names its language `tag` itself unless that is None."""
    item = sr.TextContentItem(name=name, value=by.text(text), relationship_type=relationship)
    if tag is not None:
        item.ContentSequence = sr.ContentSequence([language(tag)])
    return item


def document(title: DicomCode, items: Sequence[Dataset]) -> Dataset:
    """Return the root of a document; plain, because highdicom wants a concept name for every item."""
    item = Dataset()
    item.ValueType, item.ContinuityOfContent = "CONTAINER", "SEPARATE"
    item.ConceptNameCodeSequence = [sr.CodedConcept(*title)]
    item.ContentSequence = list(items)
    return item


def section(title: DicomCode, items: Sequence[Dataset]) -> Dataset:
    """Return a section of a document."""
    item = document(title, items)
    item.RelationshipType = "CONTAINS"
    return item


def image_item(image: Instance, name: DicomCode) -> sr.ImageContentItem:
    """Return an image."""
    return sr.ImageContentItem(
        name, image.sop_class_uid, image.sop_instance_uid, frame_numbers(image), relationship_type="CONTAINS"
    )


def reference_item(
    sop_class_uid: str, sop_instance_uid: str, name: DicomCode | sr.CodedConcept | None = None
) -> sr.ContentItem:
    """Return a reference to an object of ours: as an image where it is one, else as a composite object.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        Which.
    name : Code or None
        Concept name; TID 2010 allows none.
    """
    kind = sr.ImageContentItem if sop_class_uid in _IMAGES else sr.CompositeContentItem
    item = kind(name or COMMENT, UID(sop_class_uid), UID(sop_instance_uid), relationship_type="CONTAINS")
    if name is None:
        del item.ConceptNameCodeSequence
    return item
