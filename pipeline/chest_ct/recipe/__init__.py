"""Recipe: a hospital's own lesion network and classifier for chest CT, from labelled DICOM to a ``model.toml``."""
