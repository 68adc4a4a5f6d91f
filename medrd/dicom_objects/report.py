"""The findings in numbers, as a DICOM structured report.

Source: DICOM PS3.16, TID 1500 (Measurement Report) and TID 1411 (volumetric measurements).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medrd.dicom_objects.scene import MAKERS_CODES, NOTICE, SCORE, Finding, Scene
from medrd.dicom_objects.sources import quiet_pydicom

if TYPE_CHECKING:
    import highdicom
    from highdicom.sr import (
        AlgorithmIdentification,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom.sr.coding import Code

_SCAN_SCORE = ("SCAN_SCORE", MAKERS_CODES, "Anomaly score of the scan")
_FINDINGS = ("FINDINGS", MAKERS_CODES, "Number of findings")


def make_report(
    scene: Scene, segmentation: highdicom.seg.Segmentation | None, scan_score: float | None
) -> highdicom.sr.Comprehensive3DSR:
    """Make a group of measurements for the scan, and one for each finding.

    Parameters
    ----------
    segmentation
        The report refers to its segments; None if there are no findings.
    scan_score
        The score of the whole scan; None if it is not known.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=["medrd", scene.maker.hash]),
            name="medrd",
            manufacturer_name="medrd",
            model_name=scene.maker.name,
        ),
    )
    groups: list[
        MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations
    ] = [_whole(scene, scan_score)]
    if segmentation is not None:
        groups += [_group(scene, finding, segmentation) for finding in scene.findings]
    with quiet_pydicom():
        content = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.cid100.ImagingProcedure,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        comment = hd.sr.TextContentItem(
            name=codes.DCM.Comment,
            value=NOTICE,
            relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
        )
        content[0].ContentSequence.append(comment)
        return hd.sr.Comprehensive3DSR(
            evidence=[*scene.sources, *([segmentation] if segmentation is not None else [])],
            content=content[0],
            series_instance_uid=hd.UID(),
            series_number=9003,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="medrd",
            is_complete=True,
            is_verified=False,
            series_description=f"medrd report. {NOTICE}",
        )


def _whole(scene: Scene, scan_score: float | None) -> MeasurementsAndQualitativeEvaluations:
    """The scan: its score, how many findings there are, and their volume."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    volume_mm3 = sum(finding.volume_mm3 for finding in scene.findings)
    measurements = [
        _measurement(_FINDINGS, len(scene.findings), codes.UCUM.NoUnits),
        _measurement(codes.SCT.Volume, volume_mm3, codes.UCUM.CubicMillimeter),
    ]
    if scan_score is not None:
        measurements.insert(0, _measurement(_SCAN_SCORE, scan_score, codes.UCUM.NoUnits))
    first = scene.sources[0]
    uid = generate_uid(entropy_srcs=[str(first.SeriesInstanceUID), scene.maker.hash])
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier="Scan"),
        algorithm_id=_algorithm(scene),
        finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
        measurements=measurements,
    )


def _group(
    scene: Scene, finding: Finding, segmentation: highdicom.seg.Segmentation
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    series = hd.sr.SourceSeriesForSegmentation(str(scene.sources[0].SeriesInstanceUID))
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=finding.tracking_uid, identifier=finding.label
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=finding.number,
            source_series=series,
        ),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
        algorithm_id=_algorithm(scene),
        measurements=[
            _measurement(codes.SCT.Volume, finding.volume_mm3, codes.UCUM.CubicMillimeter),
            _measurement(
                codes.IBSI.Maximum3DDiameterOfAMesh, finding.diameter_mm, codes.UCUM.Millimeter
            ),
            _measurement(
                SCORE, finding.peak_score, codes.UCUM.NoUnits, derivation=codes.SCT.Maximum
            ),
        ],
    )


def _measurement(
    name: Code | tuple[str, str, str], value: float, unit: Code, *, derivation: Code | None = None
) -> Measurement:
    """A number, with the precision of a decimal string of 16 characters."""
    import highdicom as hd

    return hd.sr.Measurement(
        name=hd.sr.CodedConcept(*name[:3]),
        value=float(f"{value:.8g}"),
        unit=unit,
        derivation=derivation,
    )


def _algorithm(scene: Scene) -> AlgorithmIdentification:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.sr.AlgorithmIdentification(
        name=f"medrd {scene.maker.name}",
        version=scene.maker.version,
        parameters=[f"model={scene.maker.hash[:16]}", f"threshold={scene.maker.threshold}"],
        family=codes.DCM.ArtificialIntelligence,
    )
