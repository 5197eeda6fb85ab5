"""Files that are whole or not there: written aside, synced, renamed, folder synced. First bytes are kept."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from dicom_io.files import sync_file, sync_folder
from sr_writer.device import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from sr_writer.encoding import Encoder


def write_dicom(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian, encoder: Encoder | None = None) -> bool:
    """Write `ds` in the transfer syntax `syntax`, unless the same object already stands at `path`.

    Its pixels are native; what is to be written as RLE Lossless is compressed here, frame by frame. An `encoder` that has
    encoded another object of the same analysis knows what both share.

    Returns
    -------
    bool
        Whether it was written; False if the first bytes were kept.
    """
    if _sop_instance_uid(path) == ds.SOPInstanceUID:
        return False
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    if syntax == RLELossless and ds.get("BitsAllocated") == 1:  # a label map that could not be one
        syntax = ExplicitVRLittleEndian
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    temporary = path.with_name(f".{path.name}.part")
    if syntax == RLELossless:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    settled = (encoder or Encoder()).settled(ds)
    file = FileDataset(temporary, settled, preamble=b"\0" * 128, file_meta=meta)
    # else it would look for what may be encoded otherwise, and decode the sequences for that
    file.set_original_encoding(False, True, file._character_set)  # noqa: SLF001
    if syntax == RLELossless:
        file.compress(RLELossless, generate_instance_uid=False)
    file.save_as(temporary, enforce_file_format=True)
    publish(temporary, path)
    return True


def publish(temporary: Path, path: Path) -> None:
    """Sync `temporary` to disk and give it its name; then nothing can take it away but the disk."""
    sync_file(temporary)
    temporary.replace(path)
    sync_folder(path.parent)


def _sop_instance_uid(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return str(dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError):
        return None
