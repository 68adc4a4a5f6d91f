"""How well ``medrd prepare`` does on real heads: a table of errors in mm and Dice.

    python benchmarks/prepare.py --head ch2.nii.gz --head-brain ch2bet.nii.gz
    python benchmarks/prepare.py --brats /data/brats --subjects 3

The head is one with its skull and a brain mask to be held against (Debian's mricron-data ships
ch2 and ch2bet). BraTS's scans are moved, each modality by a rigid map of its own that the program
is not told, so that the right answer is known.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.data.layouts import find_subjects
from medrd.heads.brain import Extraction, deepbet_mask
from medrd.heads.head import Options, PreparedHead, prepare_head
from medrd.heads.linear import Matrix, about, apply, inverse, rotation, translation
from medrd.heads.quality import dice
from medrd.heads.record import Origin
from medrd.heads.sample import centres_mm, resample
from medrd.heads.template import Template, load_template
from medrd.report.table import markdown_table
from medrd.volumes import Volume, read_mask, read_nifti, to_sitk, volume_from_array
from medrd.workflows.native import WayBack, native_mask

Rows = list[list[str]]


def random_pose(
    rng: np.random.Generator, centre_mm: NDArray, *, degrees: float, shift_mm: float
) -> Matrix:
    """Up to so much about and along each axis."""
    turn = about(centre_mm, rotation(*rng.uniform(-degrees, degrees, 3)))
    return translation(rng.uniform(-shift_mm, shift_mm, 3)) @ turn


def moved(volume: Volume, by: Matrix) -> Volume:
    """The same voxels, lying elsewhere in the scanner."""
    return volume_from_array(volume.array, by @ volume.affine)


def apart(first: Matrix, second: Matrix, points_mm: NDArray) -> str:
    """Mean and largest distance in mm."""
    distance = np.linalg.norm(apply(first - second, points_mm), axis=1)
    return f"{distance.mean():.2f} ({distance.max():.2f})"


def timed(work: Callable[[], PreparedHead]) -> tuple[PreparedHead, float]:
    """The result, and the processor's seconds (of all threads)."""
    start = time.process_time()
    return work(), time.process_time() - start


def judge_head(scan: Volume, brain: NDArray[np.bool_], template: Template, count: int) -> Rows:
    """Brain masks against the given one, and how alike moved copies of the head are placed."""
    rng, rows = np.random.default_rng(0), []
    points = centres_mm(brain, scan.affine)[::200]
    first: Matrix | None = None
    for number in range(count):
        pose = np.eye(4)
        if number:
            pose = random_pose(rng, points.mean(0), degrees=20, shift_mm=40)
        there = moved(scan, pose)
        head, seconds = timed(partial(prepare_head, {"t1": there}, template, Options()))
        to_prepared = inverse(head.to_raw["t1"])
        mask = to_sitk(volume_from_array(head.brain, template.affine))
        back = resample(mask, scan.shape, there.affine, to_prepared).array > 0.5
        found = inverse(to_prepared @ pose)
        first = found if first is None else first
        rows.append(
            [
                "as it is" if number == 0 else f"moved, {number}",
                f"{dice(back, brain):.3f}",
                f"{head.quality.brain_ml:.0f}",
                apart(inverse(found), inverse(first), points),
                f"{head.quality.to_template.contrast:.2f}",
                "; ".join(head.quality.failures()) or "–",
                f"{seconds:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    return rows


def judge_brats(root: Path, template: Template, channels: list[str], numbers: list[int]) -> Rows:
    """Errors of registration where the truth is known, and the label's way there and back."""
    subjects = find_subjects(root, layout="auto", channels=channels)
    rows = []
    for number in numbers:
        subject = subjects[number]
        rng = np.random.default_rng(number)
        volumes = {c: read_nifti(s.path) for c, s in subject.images.items()}
        first = next(iter(volumes.values()))
        points = centres_mm(first.array > 0, first.affine)[::200]
        session = random_pose(rng, points.mean(0), degrees=15, shift_mm=30)
        poses = {c: random_pose(rng, points.mean(0), degrees=8, shift_mm=10) for c in volumes}
        poses = {c: session @ pose for c, pose in poses.items()}
        there = {c: moved(volume, poses[c]) for c, volume in volumes.items()}
        head, seconds = timed(partial(prepare_head, there, template, Options()))
        # Prepared world -> BraTS's own: the same for all modalities if they were found rightly.
        own = {c: inverse(poses[c]) @ head.to_raw[c] for c in volumes}
        reference = head.quality.reference
        at = apply(inverse(own[reference]), points)
        errors = [f"{c} {apart(own[c], own[reference], at)}" for c in own if c != reference]
        assert subject.label is not None
        label = read_mask(subject.label.path, first)
        rows.append(
            [
                f"subject {number + 1}",
                ", ".join(errors),
                apart(own[reference], np.eye(4), at),
                there_and_back(label, there[reference], head, reference, template),
                f"{head.quality.brain_dice:.3f}",
                f"{min(head.quality.to_template.contrast, *contrasts(head)):.2f}",
                "; ".join(head.quality.failures()) or "–",
                f"{seconds:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    return rows


def contrasts(head: PreparedHead) -> list[float]:
    """Of the modalities' registrations."""
    return [alignment.contrast for alignment in head.quality.to_reference.values()]


def there_and_back(
    label: NDArray[np.bool_], raw: Volume, head: PreparedHead, channel: str, template: Template
) -> str:
    """Dice of a label with itself after prepare and ``predict --native``, and its centre's way."""
    image = to_sitk(volume_from_array(label, raw.affine))
    prepared = resample(image, template.shape, template.affine, head.to_raw[channel]).array > 0.5
    origin = Origin.of(raw, head.to_raw[channel], "")
    back, _ = native_mask(WayBack(origin, origin.blank()), prepared, template.affine)
    centres = [np.array(ndimage.center_of_mass(mask)) for mask in (label, back)]
    way_mm = np.linalg.norm(raw.affine[:3, :3] @ (centres[0] - centres[1]))
    return f"{dice(back, label):.3f}, {way_mm:.2f} mm"


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--head-brain", type=Path)
    parser.add_argument("--poses", type=int, default=3)
    parser.add_argument("--deepbet", action="store_true", help="Also deepbet's mask of the head.")
    parser.add_argument("--brats", type=Path)
    parser.add_argument("--subjects", type=int, nargs="*", default=[1, 3, 5])
    parser.add_argument("--channels", nargs="*", default=["t1", "t2", "flair"])
    args = parser.parse_args()
    template = load_template()
    if args.head:
        scan, brain = read_nifti(args.head), read_nifti(args.head_brain).array > 0
        columns = ["head", "Dice", "ml", "placed apart, mm", "contrast", "failures", "CPU s"]
        print(markdown_table(columns, judge_head(scan, brain, template, args.poses)))
        if args.deepbet:
            mask = deepbet_mask(scan)
            print(f"{Extraction.deepbet}: Dice {dice(mask, brain):.3f}, {mask.sum() / 1000:.0f} ml")
    if args.brats:
        columns = [
            "subject",
            "to the reference, mm",
            "from BraTS's own place, mm",
            "label there and back",
            "brain Dice with the template",
            "least contrast",
            "failures",
            "CPU s",
        ]
        print(
            markdown_table(columns, judge_brats(args.brats, template, args.channels, args.subjects))
        )


if __name__ == "__main__":
    main()
