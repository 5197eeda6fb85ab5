"""A model of a site on this machine: a MONAI UNet of usual size, eager, compiled and as ONNX; one window of 96 x 96 x 96.

Run: python -m benchmarks.models [rounds]. The weights are seeded noise: what they find is nothing, what they cost is the same.
"""

import json
import sys
import tempfile
from pathlib import Path

ARGUMENTS = {
    "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [16, 32, 64, 128, 256], "strides": [2, 2, 2, 2],
    "num_res_units": 2, "norm": "BATCH",
}  # fmt: skip
METADATA = {
    "version": "1.0.0", "license": "Apache-2.0",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [96, 96, 96]}}, "outputs": {"pred": {"num_channels": 2}},
    },
}  # fmt: skip
CONFIG = {
    "network_def": {"_target_": "UNet", **ARGUMENTS},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -1000, "a_max": 1000, "b_min": 0, "b_max": 1}
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 96]},
    "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]},
}  # fmt: skip
DESCRIPTION = """
name = "unet_bench"
task = "segmentation"
modalities = ["CT"]
[[label]]
index = 1
name = "tissue"
text = { en = "Tissue", "zh-CN" = "组织" }
type = ["87784001", "SCT", "Soft tissue"]
[card]
title = { en = "Seeded noise", "zh-CN" = "随机权重" }
intended_use = { en = "Time", "zh-CN" = "计时" }
provenance = { en = "A seed", "zh-CN" = "随机种子" }
"""


def main(rounds: int) -> None:
    import torch
    from monai.networks.nets import UNet

    from pipeline.models.bench import measure
    from pipeline.models.shelf import Shelf

    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as name:
        bundle = Path(name, "bundle")
        (bundle / "configs").mkdir(parents=True)
        (bundle / "models").mkdir()
        (bundle / "configs" / "inference.json").write_text(json.dumps(CONFIG))
        (bundle / "configs" / "metadata.json").write_text(json.dumps(METADATA))
        (bundle / "model.toml").write_text(DESCRIPTION, encoding="utf-8")
        torch.save(UNet(**ARGUMENTS).state_dict(), bundle / "models" / "model.pt")
        installed = Shelf(Path(name, "models")).add(bundle)
        rows, shape, device = measure(installed, "auto", rounds)
    print(
        f"{device}, {torch.get_num_threads()} threads, input {shape}\n\n| way | median, ms | first run, s | differs |\n|---|---|---|---|"
    )
    for row in rows:
        if row.seconds is None:
            print(f"| {row.way} | {row.reason} | | |")
        else:
            print(f"| {row.way} | {1000 * row.seconds:.0f} | {row.first_s:.1f} | {row.differs or 0:.1e} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
