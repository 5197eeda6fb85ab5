"""The same phantom as one enhanced multi-frame CT: every slice a frame, in the order of the single images.

References
----------
DICOM PS3.3 A.38.1 (Enhanced CT Image IOD), C.7.6.16 and C.8.15.3 (functional groups).
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from phantom.build import Phantom
from phantom.dicom import datasets, uid, write_instances

FRAME_TYPE = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
_DATE_TIME = "20250106093000"
_IN_GROUPS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation", "KVP",
    "GantryDetectorTilt", "ConvolutionKernel", "RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth",
    "WindowCenterWidthExplanation", "AcquisitionDate", "AcquisitionTime",
)  # fmt: skip
"""What a single image says at its top level, and an enhanced one in functional groups or not at all."""


def write_enhanced(phantom: Phantom, out: Path) -> Path:
    """Write the phantom as one instance, and its truth, as `phantom.write` does; return `out`."""
    return write_instances(phantom, [enhanced(phantom)], 1, out)


def enhanced(phantom: Phantom) -> Dataset:
    """Return the one data set, with file meta information.

    It belongs to the study of the single images, as another series.

    Raises
    ------
    ValueError
        If the slices have several frames of reference.
    """
    slices, p = list(datasets(phantom)), phantom.parameters
    if len({s.FrameOfReferenceUID for s in slices}) > 1:
        raise ValueError("an enhanced image has one frame of reference")
    ds = Dataset()
    ds.update({element.tag: element for element in slices[0] if element.keyword not in _IN_GROUPS})
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedCTImageStorage, uid(p, "enhanced instance")
    ds.SeriesInstanceUID, ds.InstanceNumber = uid(p, "enhanced series"), 1
    ds.SeriesNumber, ds.SeriesDescription = 3, f"{slices[0].SeriesDescription} enhanced"[:64]
    first = FRAME_TYPE if slices[0].ImageType[0] == "ORIGINAL" else ["DERIVED", *FRAME_TYPE[1:]]
    ds.ImageType = first
    ds.AcquisitionDateTime, ds.AcquisitionDuration = _DATE_TIME, 5.0
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ContentQualification, ds.BurnedInAnnotation = "RESEARCH", "NO"
    ds.LossyImageCompression, ds.PresentationLUTShape = "00", "IDENTITY"
    ds.AcquisitionContextSequence = []
    ds.NumberOfFrames = len(slices)
    _dimensions(ds, phantom)
    ds.SharedFunctionalGroupsSequence = [_shared(slices[0], first, uid(p, "irradiation event"))]
    normal = np.cross(*np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3))
    along = np.array([np.dot([float(v) for v in s.ImagePositionPatient], normal) for s in slices])
    ranks = np.unique(along.round(3), return_inverse=True)[1] + 1
    ds.PerFrameFunctionalGroupsSequence = [_frame(s, int(rank)) for s, rank in zip(slices, ranks, strict=True)]
    ds.PixelData = b"".join(s.PixelData for s in slices)
    ds["PixelData"].VR = "OW"
    ds.file_meta = slices[0].file_meta
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def _dimensions(ds: Dataset, phantom: Phantom) -> None:
    organization = uid(phantom.parameters, "dimensions")
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    ds.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=organization, DimensionIndexPointer=tag, FunctionalGroupPointer=0x00209111)
        for tag in (0x00209056, 0x00209057)  # Stack ID, In-Stack Position Number in Frame Content
    ]


def _shared(first: Dataset, frame_type: list[str], event: str) -> Dataset:
    """Return what all frames have in common."""
    centre = [float(v) for v in first.ImagePositionPatient]
    groups = {
        "PixelMeasuresSequence": _item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness),
        "PlaneOrientationSequence": _item(ImageOrientationPatient=first.ImageOrientationPatient),
        "FrameAnatomySequence": _item(FrameLaterality="U", AnatomicRegionSequence=[_code("51185008", "SCT", "Chest")]),
        "PixelValueTransformationSequence": _item(
            RescaleIntercept=first.RescaleIntercept, RescaleSlope=first.RescaleSlope, RescaleType="HU"
        ),
        "FrameVOILUTSequence": _item(
            WindowCenter=first.WindowCenter, WindowWidth=first.WindowWidth,
            WindowCenterWidthExplanation=first.WindowCenterWidthExplanation,
        ),
        "CTImageFrameTypeSequence": _item(
            FrameType=frame_type, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        ),
        "IrradiationEventIdentificationSequence": _item(IrradiationEventUID=event),
        "CTAcquisitionTypeSequence": _item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO"),
        "CTAcquisitionDetailsSequence": _item(
            RotationDirection="CW", RevolutionTime=0.5, SingleCollimationWidth=0.625,
            TotalCollimationWidth=40.0, TableHeight="0", GantryDetectorTilt=first.GantryDetectorTilt,
            DataCollectionDiameter="500",
        ),
        "CTTableDynamicsSequence": _item(TableSpeed=0.0, TableFeedPerRotation=0.0),
        "CTPositionSequence": _item(
            TablePosition=0.0, DataCollectionCenterPatient=centre, ReconstructionTargetCenterPatient=centre
        ),
        "CTGeometrySequence": _item(
            DistanceSourceToDetector="1000", DistanceSourceToDataCollectionCenter=600.0,
        ),
        "CTReconstructionSequence": _item(
            ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel=first.ConvolutionKernel,
            ConvolutionKernelGroup="SOFT_TISSUE", ReconstructionDiameter="400",
            ReconstructionPixelSpacing=[float(v) for v in first.PixelSpacing], ReconstructionAngle=360.0, ImageFilter="NONE",
        ),
        "CTExposureSequence": _item(
            ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0,
            ExposureModulationType="NONE", CTDIvol=5.0,
            CTDIPhantomTypeCodeSequence=[_code("113691", "DCM", "IEC Body Dosimetry Phantom")],
        ),
        "CTXRayDetailsSequence": _item(KVP=first.KVP, FocalSpots=["1"], FilterType="FLAT", FilterMaterial=["ALUMINUM"]),
    }  # fmt: skip
    return _item(**{name: [item] for name, item in groups.items()})


def _frame(single: Dataset, rank: int) -> Dataset:
    content = _item(
        FrameAcquisitionDateTime=_DATE_TIME, FrameReferenceDateTime=_DATE_TIME, FrameAcquisitionDuration=500.0,
        FrameAcquisitionNumber=1, StackID="1", InStackPositionNumber=rank, DimensionIndexValues=[1, rank],
    )  # fmt: skip
    place = _item(ImagePositionPatient=single.ImagePositionPatient)
    return _item(FrameContentSequence=[content], PlanePositionSequence=[place])


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(**values: Any) -> Dataset:  # noqa: ANN401 - DICOM values
    out = Dataset()
    for keyword, value in values.items():
        setattr(out, keyword, value)
    return out
