"""Models that a hospital brings: MONAI bundles, TorchScript and ONNX, each described by a ``model.toml``."""
