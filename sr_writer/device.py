"""What the node calls itself in the objects that it authors."""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_io import elements

MANUFACTURER = "pacs-ai-node project"
MODEL_NAME = "PACS AI node"
SOFTWARE_VERSION = "0.1.0"
IMPLEMENTATION_CLASS_UID = "2.25.110945085154731799522136674507524418133"
IMPLEMENTATION_VERSION = "PACS_AI_NODE_010"


def contributing_device_uids(header: Dataset) -> Iterator[str]:
    """Yield every Device UID (0018,1002) in Contributing Equipment Sequence (0018,A001); odd items give none."""
    items = elements.value(header, "ContributingEquipmentSequence")
    if isinstance(items, Sequence):  # else sent with another VR
        for item in items:
            yield from elements.texts(item, "DeviceUID")
