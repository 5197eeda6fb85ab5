"""Everything DICOM on the wire and on disk that is not authored by this node."""
