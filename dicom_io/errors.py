"""The exception tree of `dicom_io`.

- DicomIOError
    - UnreadableError      bytes that cannot be taken as DICOM, or not as the object asked for
    - GeometryError        slices that do not make one volume
    - PixelError           pixels that cannot be decoded or are not what the header says
    - NetworkError         an association or a message that failed
    - TlsError             files of TLS that cannot be used
"""

from dicom_io.reason import Reason


class DicomIOError(Exception):
    """Something about DICOM input, output or transport failed.

    Parameters
    ----------
    reason : Reason
        What happened and what to do next; no patient data.
    retryable : bool
        Whether the same call may succeed later.
    """

    def __init__(self, reason: Reason, *, retryable: bool = False) -> None:
        super().__init__(f"{reason.code}: {reason.text['en']}")
        self.reason = reason
        self.retryable = retryable


class UnreadableError(DicomIOError):
    """Bytes that are not DICOM, or not enough of it."""


class GeometryError(DicomIOError):
    """Slices that do not make one volume."""


class PixelError(DicomIOError):
    """Pixels that cannot be decoded, or are not what the header says."""


class NetworkError(DicomIOError):
    """An association or a DIMSE message that failed."""


class TlsError(DicomIOError):
    """A certificate, key or list that TLS cannot use; it names the file."""
