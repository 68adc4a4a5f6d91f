"""Findings as a DICOM Segmentation: one segment each, coded as a lesion.

Source: DICOM PS3.3, A.51 and C.8.20.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medrd.dicom_objects.scene import NOTICE, Scene
from medrd.dicom_objects.sources import quiet_pydicom

if TYPE_CHECKING:
    import highdicom

_MOST_RGB = ((230, 80, 60), (240, 170, 40), (80, 170, 230), (120, 200, 90), (190, 110, 220))
"""Colours of the segments, in turn."""


def make_segmentation(scene: Scene) -> highdicom.seg.Segmentation:
    """Make one binary segment for each finding; at least one is needed."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"medrd {scene.maker.name}",
        family=codes.DCM.ArtificialIntelligence,
        version=scene.maker.version,
        source="medrd",
        parameters={"model": scene.maker.hash[:16], "threshold": f"{scene.maker.threshold}"},
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=finding.number,
            segment_label=finding.label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=finding.tracking_uid,
            tracking_id=finding.label,
            anatomic_regions=[codes.SCT.Brain],
            display_color=hd.color.CIELabColor.from_rgb(
                *_MOST_RGB[(finding.number - 1) % len(_MOST_RGB)]
            ),
        )
        for finding in scene.findings
    ]
    with quiet_pydicom():
        made = hd.seg.Segmentation(
            source_images=scene.sources,
            pixel_array=scene.as_volume(scene.labels.astype(np.uint16)),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=9001,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            content_label="FINDINGS",
            content_description=NOTICE,
            series_description=f"medrd findings. {NOTICE}",
            **scene.equipment,
        )
    return made
