"""Pictures as Secondary Capture objects.

References
----------
PS3.3 section A.8.1 (Secondary Capture Image IOD), C.8.6.1 (SC Equipment), C.7.6.3 (Image Pixel).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_io import elements
from dicom_io.model import Instance
from sr_writer.header import Authorship, finish, mark_lossy, new_object
from sr_writer.profiles import ObjectName
from sr_writer.references import source_image


def build(
    pixels: npt.NDArray[np.uint8],
    sources: Sequence[Instance],
    by: Authorship,
    *,
    kind: ObjectName,
    description: str,
    what: str | None = None,
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
    kind : ObjectName
        ``sc`` or ``card``.
    description : str
        Derivation Description (0008,2111).
    what : str or None
        Another word for the series description.
    variant : str
        What else makes it another object.
    """
    ds = new_object(
        by, kind=kind, sop_class_uid=SecondaryCaptureImageStorage, modality="OT", variant=variant, what=what
    )
    fill(ds, pixels, sources, by, description)
    ds.PatientOrientation = ""
    return finish(ds, by)


def fill(
    ds: Dataset, pixels: npt.NDArray[np.uint8], sources: Iterable[Instance], by: Authorship, description: str
) -> None:
    """Put an RGB picture of shape (rows, columns, 3), and what it was derived from, into `ds`."""
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "YES"
    ds.DerivationDescription = description
    ds.SourceImageSequence = [source_image(source) for source in sources]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    mark_lossy(ds, by.source)
    ds.BodyPartExamined = body_part(by)
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)


def body_part(by: Authorship) -> str:
    """Return Body Part Examined (0018,0015); without it the General Series module asks for Laterality."""
    return elements.text(by.source, "BodyPartExamined").upper()[:16] or "CHEST"
