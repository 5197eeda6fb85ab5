"""Content items that all documents share: who observed, in which language, what is said in words.

References
----------
PS3.16 TID 1204 (Language of Content Item and Descendants), TID 1002 and 1004 (Observer Context, Device).
"""

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from dicom_io.model import Instance
from sr_writer.device import MANUFACTURER, MODEL_NAME
from sr_writer.header import Authorship
from sr_writer.identity import AnalysisIdentity, installation_uid

COMMENT = DicomCode("121106", "DCM", "Comment")
LANGUAGES = {
    "en": sr.CodedConcept("en-US", "RFC5646", "English (United States)"),
    "zh-CN": sr.CodedConcept("zh-CN", "RFC5646", "Chinese (China)"),
}
_LANGUAGE = DicomCode("121049", "DCM", "Language of Content Item and Descendants")
_DEVICE = sr.CodedConcept("121007", "DCM", "Device")


def observer(identity: AnalysisIdentity) -> sr.ObservationContext:
    """Return the node as the device that observed."""
    serial = installation_uid(identity.installation_id)
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=_DEVICE,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=serial, name=MODEL_NAME, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME,
                serial_number=serial,
            ),
        )
    )  # fmt: skip


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
    return sr.ImageContentItem(name, image.sop_class_uid, image.sop_instance_uid, relationship_type="CONTAINS")
