"""Whether two instances show the same picture."""

import hashlib
import warnings

import numpy as np
from pydicom import dcmread

from dicom_io.errors import DicomIOError, PixelError
from dicom_io.model import Instance
from dicom_io.pixels import pixel_format, stored_values
from dicom_io.read import dataset_offset, inflated
from dicom_io.reasons import REASONS


def equal_pixels(a: Instance, b: Instance) -> bool:
    """Say whether two instances have equal pixels, however these are encoded.

    Pixels of one encoding are compared as they are, then decoded; those that cannot be decoded equal only themselves,
    and an instance without pixels equals nothing.
    """
    try:
        if a.transfer_syntax_uid == b.transfer_syntax_uid:
            first, second = _encoded(a), _encoded(b)
            if first is None or second is None or first == second:
                return first is not None and first == second
        one, other = pixel_format(a), pixel_format(b)
        return np.array_equal(stored_values(a, one), stored_values(b, other))
    except (DicomIOError, OSError):
        return False


def _encoded(instance: Instance) -> bytes | None:
    """Return the digest of the pixel data element's value, None if there is none."""
    try:
        with instance.path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = inflated(file, dataset_offset(file))
            found = dcmread(source, force=True, specific_tags=["PixelData"]).get("PixelData")
    except (DicomIOError, OSError):
        raise
    except Exception as error:  # pydicom raises whatever hostile bytes make it raise
        raise PixelError(REASONS("pixels-undecodable", syntax=instance.transfer_syntax_uid)) from error
    return hashlib.sha256(found).digest() if isinstance(found, bytes) and found else None
