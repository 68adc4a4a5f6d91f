"""A subject's lesions, from its label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrd.data.subject import Subject
from medrd.images.labels import MOST, refuse_grey_values
from medrd.images.nifti import read_label
from medrd.images.volume import Volume


class Lesions(NamedTuple):
    """A label's mask of lesions (X, Y, Z), and sentences about its unusual properties."""

    mask: NDArray[np.bool_]
    warnings: tuple[str, ...]


def read_lesions(subject: Subject, like: Volume, *, max_voxels: int) -> Lesions:
    """Read the label of a subject that has one.

    Every value but 0 is lesion, since the values' meanings differ by year and data set, unless
    ``subject.lesion_labels`` names some.

    Raises
    ------
    InputError
        As :func:`medrd.images.nifti.read_label`; or the label's values are grey values.
    """
    label, chosen = subject.label, subject.lesion_labels
    assert label is not None
    labels = read_label(label.path, like=like, frame=label.frame, max_voxels=max_voxels)
    if not chosen:
        refuse_grey_values(label.path, labels)
    mask = np.isin(labels, chosen) if chosen else labels != 0
    brain = like.array != 0
    within = int((mask & brain).sum()) / max(int(brain.sum()), 1)
    warnings = []
    for share, place in ((within, "brain"), (float(mask.mean()), "volume")):
        if share <= MOST:
            continue
        warnings.append(
            f"The label {label.path.name} covers {share:.0%} of the {place} (values "
            f"{_listed(labels[mask])}): if some of them are not lesions, name those that are in "
            "data.lesion_labels."
        )
        break
    if not warnings and mask.any() and (inside := float(brain[mask].mean())) < MOST:
        warnings.append(
            f"Only {inside:.0%} of the label {label.path.name} lies in the brain: does it belong "
            "to this scan?"
        )
    if chosen and not mask.any() and labels.any():
        warnings.append(
            f"The label {label.path.name} holds none of data.lesion_labels "
            f"({_listed(np.array(chosen))}), but {_listed(labels[labels != 0])}: the subject "
            "counts as healthy."
        )
    return Lesions(mask, tuple(warnings))


def _listed(values: NDArray[np.int32], shown: int = 8) -> str:
    different = np.unique(values).tolist()
    return ", ".join(map(str, different[:shown])) + (", …" if len(different) > shown else "")
