"""UIDs follow from what made an object, and from nothing else."""

import hashlib
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from sr_writer.identity import AnalysisIdentity, authored_by, combined_digest, device_uid, installation_uid
from sr_writer.options import WriterOptions

pytestmark = pytest.mark.unit

BASE = AnalysisIdentity(
    "home", "1.2.3", (("1.2.3.1", "aa"), ("1.2.3.2", "bb")), "chest_ct", "0.1.0", "sha256:w", "sha256:o"
)


def test_the_formula_is_the_promised_one() -> None:
    fields = [
        "object",
        "home",
        "1.2.3",
        "2",
        "1.2.3.1",
        "aa",
        "1.2.3.2",
        "bb",
        "chest_ct",
        "0.1.0",
        "sha256:w",
        "sha256:o",
    ]
    data = b"".join(len(f).to_bytes(8, "big") + f.encode() for f in [*fields, "seg", "0", "binary"])
    expected = int.from_bytes(hashlib.sha256(data).digest()[:16], "big")
    assert BASE.uid("seg", 0, "binary") == f"2.25.{expected}"
    assert UID(BASE.uid("seg")).is_valid


def test_order_of_inputs_does_not_matter() -> None:
    assert replace(BASE, inputs=BASE.inputs[::-1]) == BASE


@pytest.mark.parametrize(
    "change",
    [
        {"installation_id": "away"},
        {"study_instance_uid": "1.2.4"},
        {"inputs": (("1.2.3.1", "aa"),)},
        {"inputs": (("1.2.3.1", "aa"), ("1.2.3.2", "cc"))},
        {"inputs": (("1.2.3.1a", "a"), ("1.2.3.2", "bb"))},  # the same characters, cut elsewhere
        {"pipeline": "chest_c", "version": "t0.1.0"},
        {"version": "0.1.1"},
        {"weights_digest": "sha256:x"},
        {"options_digest": "sha256:p"},
    ],
    ids="+".join,
)
def test_14_anything_changed_gives_other_uids(change: dict[str, object]) -> None:
    assert replace(BASE, **change).uid("seg") != BASE.uid("seg")  # type: ignore[arg-type]


def test_kind_ordinal_and_variant_are_apart() -> None:
    uids = {BASE.uid(k, n, v) for k in ("seg", "sr", "seg series") for n in (0, 1) for v in ("", "binary")}
    assert len(uids) == 12


def test_20_device_uid_changes_with_the_weights() -> None:
    assert BASE.device_uid == device_uid("home", "chest_ct", "0.1.0", "sha256:w")
    assert replace(BASE, weights_digest="sha256:x").device_uid != BASE.device_uid
    assert replace(BASE, options_digest="sha256:p").device_uid == BASE.device_uid


def test_an_identity_needs_an_installation() -> None:
    with pytest.raises(ValueError, match="installation"):
        replace(BASE, installation_id="")


def test_digests_name_what_they_cover() -> None:
    assert BASE.input_digest.startswith("sha256:")
    assert replace(BASE, inputs=()).input_digest != BASE.input_digest
    assert replace(BASE, inputs=()).pipeline_digest == BASE.pipeline_digest
    assert replace(BASE, options_digest="").pipeline_digest != BASE.pipeline_digest
    assert combined_digest("a", "b") != combined_digest("b", "a")


def _equipped(*uids: object) -> Dataset:
    header = Dataset()
    header.ContributingEquipmentSequence = []
    for uid in uids:
        item = Dataset()
        if uid is not None:
            item.DeviceUID = uid
        header.ContributingEquipmentSequence.append(item)
    return header


@pytest.mark.parametrize(
    ("header", "own"),
    [
        (Dataset(), False),
        (_equipped(), False),
        (_equipped(None), False),
        (_equipped("1.2.3"), False),
        (_equipped(installation_uid("away")), False),
        (_equipped(installation_uid("home")), True),
        (_equipped("1.2.3", installation_uid("home")), True),
        (_equipped(["1.2.3", installation_uid("home")]), True),
        (_equipped(device_uid("home", "chest_ct", "0.1.0", "sha256:w")), False),
    ],
)
def test_own_work_is_recognised_by_the_installation(header: Dataset, own: bool) -> None:
    assert authored_by(header, "home") is own


@pytest.mark.parametrize(
    "wrong", [{"profile": "nobody"}, {"languages": ()}, {"languages": ("de",)}, {"languages": ("en", "en")}]
)
def test_options_refuse_what_they_do_not_know(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WriterOptions(**wrong)  # type: ignore[arg-type]


def test_every_option_changes_the_digest_but_the_profile() -> None:
    digests = {
        WriterOptions(**change).digest  # type: ignore[arg-type]
        for change in ({}, {"languages": ("zh-CN", "en")}, {"research": False})
    }
    assert len(digests) == 3
    assert WriterOptions(profile="air").digest in digests, "what one place wants does not change the objects of another"
