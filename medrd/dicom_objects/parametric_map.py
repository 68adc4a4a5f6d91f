"""The scores as a DICOM Parametric Map: the NIfTI map's numbers, in float32.

Source: DICOM PS3.3, A.75 and C.8.32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medrd.dicom_objects.scene import NOTICE, SCORE, Scene
from medrd.dicom_objects.sources import quiet_pydicom

if TYPE_CHECKING:
    import highdicom


def make_parametric_map(scene: Scene) -> highdicom.pm.ParametricMap:
    """Make the object from all slices of the map; the colour range for viewers ends at twice the
    threshold."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    low, high = float(scene.scores.min()), float(scene.scores.max())
    ceiling = 2 * scene.maker.threshold if scene.maker.threshold else high
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ANOMALY_SCORE",
        lut_explanation="Anomaly score in the model's own units",
        unit=codes.UCUM.NoUnits,
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept(*SCORE),
    )
    ceiling = ceiling if ceiling > 0 else 1.0
    with quiet_pydicom():
        made = hd.pm.ParametricMap(
            source_images=scene.sources,
            pixel_array=scene.as_volume(scene.scores.astype(np.float32)),
            series_instance_uid=hd.UID(),
            series_number=9002,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[
                hd.VOILUTTransformation(window_center=ceiling / 2, window_width=ceiling)
            ],
            content_label="SCORES",
            content_description=NOTICE,
            content_qualification=hd.ContentQualificationValues.RESEARCH,
            series_description=f"medrd scores. {NOTICE}",
            **scene.equipment,
        )
    made.BodyPartExamined = "BRAIN"  # the brain has no laterality
    return made
