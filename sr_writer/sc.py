"""Pictures as Secondary Capture objects.

References
----------
PS3.3 section A.8.1 (Secondary Capture Image IOD), C.8.6.1 (SC Equipment), C.7.6.3 (Image Pixel).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_io import elements
from dicom_io.model import Instance
from pipeline.result import Code
from sr_writer.codes import coded
from sr_writer.header import Authorship, finish, new_object

SERIES_NUMBER = 903
_SOURCE = Code("121322", "DCM", "Source image for image processing operation")


def build(
    pixels: npt.NDArray[np.uint8],
    sources: Sequence[Instance],
    by: Authorship,
    *,
    kind: str,
    what: str,
    description: str,
    variant: str = "",
) -> Dataset:
    """Return a picture as a Secondary Capture object.

    Parameters
    ----------
    pixels : ndarray, uint8, shape (rows, columns, 3)
        RGB.
    sources : Sequence[Instance]
        The images that it was made from.
    by : Authorship
        Whose, by whom, when.
    kind, what : str
        ``sc`` or ``card``, and the word for the series description.
    description : str
        Derivation Description (0008,2111).
    variant : str
        What else makes it another object.
    """
    ds = new_object(
        by, kind=kind, sop_class_uid=SecondaryCaptureImageStorage, modality="OT", series_number=SERIES_NUMBER, what=what,
        variant=variant,
    )  # fmt: skip
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "YES"
    ds.DerivationDescription = description
    ds.PatientOrientation = ""
    # else the General Series module asks for Laterality
    ds.BodyPartExamined = elements.text(by.source, "BodyPartExamined").upper()[:16] or "CHEST"
    items = []
    for source in sources:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.sop_instance_uid
        item.PurposeOfReferenceCodeSequence = [coded(_SOURCE)]
        items.append(item)
    ds.SourceImageSequence = items
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.LossyImageCompression = "00"
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    return finish(ds, by)
