"""Every DICOM object that this node authors: segmentation, structured report, summary picture, and the outbound gate."""
