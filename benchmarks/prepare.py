"""Accuracy of ``medrd prepare`` on real heads: a table of errors in mm and of Dice.

    python benchmarks/prepare.py --head ch2.nii.gz --head-brain ch2bet.nii.gz
    python benchmarks/prepare.py --brats /data/brats --subjects 1 2 4
    python benchmarks/prepare.py --brats /data/brats --subjects 1 2 --model run
    python benchmarks/prepare.py --brats /data/brats --subjects 1 2 3 --poses-of-brats

The head has a skull, and a brain mask for comparison (Debian's mricron-data contains ch2 and
ch2bet). Each modality of BraTS's scans is moved by a known rigid transform, which the program has
to recover. With a model, the third command compares its masks of such scans, prepared and brought
back by ``--native``, with those of the original scans. The last command prints the pose of BraTS's
brains relative to the template (the constants in ``medrd/preparation/template.py``).
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sklearn.metrics import average_precision_score

from medrd.config import RecipeConfig
from medrd.data.brains.layouts import find_subjects
from medrd.data.output_names import SCAN_FILES
from medrd.data.subject import Subject
from medrd.images.nifti import read_mask, read_nifti, write_nifti
from medrd.images.sitk import to_sitk
from medrd.images.volume import Volume, volume_from_array
from medrd.prediction.native import NATIVE_ENDINGS, NativeSpace, native_mask
from medrd.prediction.predict import predict
from medrd.preparation.brain import deepbet_mask
from medrd.preparation.head import PreparedHead, prepare_head
from medrd.preparation.linear import Matrix, about, inverse, rotation, translation
from medrd.preparation.options import PrepareOptions
from medrd.preparation.prepare import prepare
from medrd.preparation.quality import dice
from medrd.preparation.record import Origin
from medrd.preparation.sample import centres_mm, resample
from medrd.preparation.template import Template, load_template
from medrd.run.model_folder import Model, load_model
from medrd.run.table import markdown_table

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
    distance = np.linalg.norm(apply_affine(first - second, points_mm), axis=1)
    return f"{distance.mean():.2f} ({distance.max():.2f})"


def timed(work: Callable[[], PreparedHead]) -> tuple[PreparedHead, float]:
    """The result, and the processor's seconds (of all threads)."""
    start = time.process_time()
    return work(), time.process_time() - start


def head_rows(scan: Volume, brain: NDArray[np.bool_], template: Template, count: int) -> Rows:
    """Brain masks against the given one, and how alike moved copies of the head are placed."""
    rng, rows = np.random.default_rng(0), []
    points = centres_mm(brain, scan.affine)[::200]
    first: Matrix | None = None
    for number in range(count):
        pose = np.eye(4)
        if number:
            pose = random_pose(rng, points.mean(0), degrees=20, shift_mm=40)
        there = moved(scan, pose)
        head, seconds = timed(partial(prepare_head, {"t1": there}, template, PrepareOptions()))
        to_prepared = inverse(head.to_raw["t1"])
        mask = to_sitk(volume_from_array(head.brain, template.affine))
        back = resample(mask, scan.shape, there.affine, to_prepared).array > 0.5
        if not number:
            onto = head.to_template @ to_prepared
            affine = resample(template.region(), scan.shape, scan.affine, onto).array > 0.5
            for name, inside in (("the given mask", brain), ("template, affine alone", affine)):
                ml = np.count_nonzero(inside) * scan.voxel_volume_mm3 / 1000
                rows.append([name, f"{dice(inside, brain):.3f}", f"{ml:.0f}", *["–"] * 4])
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


def brats_rows(root: Path, template: Template, channels: list[str], numbers: list[int]) -> Rows:
    """Errors of registration against known transforms, and of a label's round trip."""
    subjects = find_subjects(root, layout="auto", channels=channels)
    rows = []
    for number in numbers:
        subject = subjects[number - 1]
        volumes, poses = scanned(subject, number)
        first = next(iter(volumes.values()))
        points = centres_mm(first.array > 0, first.affine)[::200]
        there = {c: moved(volume, poses[c]) for c, volume in volumes.items()}
        head, seconds = timed(partial(prepare_head, there, template, PrepareOptions()))
        # Prepared world -> BraTS's own: the same for all modalities if they were found rightly.
        own = {c: inverse(poses[c]) @ head.to_raw[c] for c in volumes}
        reference = head.quality.reference
        at = apply_affine(inverse(own[reference]), points)
        errors = [f"{c} {apart(own[c], own[reference], at)}" for c in own if c != reference]
        assert subject.label is not None
        label = read_mask(subject.label.path, first)
        rows.append(
            [
                f"subject {number}",
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


def scanned(subject: Subject, number: int) -> tuple[dict[str, Volume], dict[str, Matrix]]:
    """A subject's scans, and where each lay in a scanner: the session, and a modality's own way."""
    rng = np.random.default_rng(number - 1)
    volumes = {c: read_nifti(s.path) for c, s in subject.images.items()}
    first = next(iter(volumes.values()))
    centre_mm = centres_mm(first.array > 0, first.affine).mean(0)
    session = random_pose(rng, centre_mm, degrees=15, shift_mm=30)
    poses = {c: session @ random_pose(rng, centre_mm, degrees=8, shift_mm=10) for c in volumes}
    return volumes, poses


def map_rows(root: Path, model: Model, numbers: list[int]) -> Rows:
    """A model's findings in moved scans, prepared and brought back, and in BraTS's own."""
    assert isinstance(model.recipe, RecipeConfig)  # a model of scans
    channels = list(model.recipe.channels)
    with_t1 = list(dict.fromkeys([*channels, "t1"]))
    subjects = find_subjects(root, layout="auto", channels=with_t1)
    rows = []
    for number in numbers:
        subject = subjects[number - 1]
        volumes, poses = scanned(subject, number)
        assert subject.label is not None
        own = volumes[channels[0]]
        label, brain = read_mask(subject.label.path, own), own.array != 0
        with tempfile.TemporaryDirectory() as folder:
            raw, out = Path(folder, "raw", "s"), Path(folder, "prepared")
            start = time.process_time()
            for channel, volume in volumes.items():
                # Each on a grid of its own: voxel on voxel with BraTS's label, elsewhere in mm.
                there = moved(volume, poses[channel])
                path = raw / f"s_{channel}.nii.gz"
                write_nifti(path, there.array, there, dtype="float32")
            record = prepare([raw], out).done[0]
            seconds = time.process_time() - start
            there_already = subject.images[channels[0]].path.parent
            before = found(
                model, there_already, Path(folder, "before"), SCAN_FILES.map, SCAN_FILES.mask
            )
            after = found(model, record.parent, Path(folder, "after"), *NATIVE_ENDINGS, native=True)
        both = brain & (before[0] > 0) & (after[0] > 0)
        rows.append(
            [
                f"subject {number}",
                *(f"{dice(mask, label):.3f}" for _, mask in (before, after)),
                *(
                    f"{average_precision_score(label[brain], scores[brain]):.3f}"
                    for scores, _ in (before, after)
                ),
                f"{np.corrcoef(before[0][both], after[0][both])[0, 1]:.3f}",
                f"{seconds:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    return rows


def found(
    model: Model, subject: Path, out: Path, map_: str, mask: str, *, native: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores and mask (X, Y, Z) of the one scan."""
    report = predict(model, [subject], out, picture=False, native=native)
    (record,) = report.done
    name = json.loads(record.read_text(encoding="utf-8"))["subject"]
    scores = read_nifti(record.parent / f"{name}{map_}").array
    return scores, read_nifti(record.parent / f"{name}{mask}").array > 0


def poses_of_brats(root: Path, template: Template, numbers: list[int]) -> Rows:
    """Position of the template's centre in BraTS's brains, and their rotation in three axes."""
    subjects = find_subjects(root, layout="auto", channels=["t1"])
    found = []
    for number in numbers:
        scan = read_nifti(subjects[number - 1].images["t1"].path)
        head = prepare_head({"t1": scan}, template, PrepareOptions())
        from_template = head.to_raw["t1"] @ inverse(template.pose)
        turn = Rotation.from_matrix(from_template[:3, :3]).as_euler("xyz", degrees=True)
        found.append([*apply_affine(from_template, template.centre_mm[None])[0], *turn])
        print(np.round(found[-1], 1), flush=True)
    return [
        [name, *(f"{value:.1f}" for value in values)]
        for name, values in (("mean", np.mean(found, 0)), ("SD", np.std(found, 0)))
    ]


def contrasts(head: PreparedHead) -> list[float]:
    """The contrasts of the modalities' registrations."""
    return [alignment.contrast for alignment in head.quality.to_reference.values()]


def there_and_back(
    label: NDArray[np.bool_], raw: Volume, head: PreparedHead, channel: str, template: Template
) -> str:
    """Dice of a label after prepare and ``predict --native``, and the shift of its centre."""
    image = to_sitk(volume_from_array(label, raw.affine))
    prepared = resample(image, template.shape, template.affine, head.to_raw[channel]).array > 0.5
    origin = Origin.of(raw, head.to_raw[channel], "")
    back, _ = native_mask(NativeSpace(origin, origin.blank()), prepared, template.affine)
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
    parser.add_argument("--model", type=Path, help="Of flair, say: its maps of raw scans.")
    parser.add_argument("--poses-of-brats", action="store_true")
    parser.add_argument("--subjects", type=int, nargs="*", default=[1, 2, 4], help="From 1.")
    parser.add_argument("--channels", nargs="*", default=["t1", "t2", "flair"])
    args = parser.parse_args()
    if not args.head and not args.brats:
        parser.error("give --head and --head-brain, or --brats")
    template = load_template()
    if args.head:
        scan, brain = read_nifti(args.head), read_nifti(args.head_brain).array > 0
        columns = ["head", "Dice", "ml", "placed apart, mm", "contrast", "failures", "CPU s"]
        print(markdown_table(columns, head_rows(scan, brain, template, args.poses)))
        if args.deepbet:
            mask = deepbet_mask(scan)
            print(f"deepbet: Dice {dice(mask, brain):.3f}, {mask.sum() / 1000:.0f} ml")
    if args.brats and args.poses_of_brats:
        columns = ["", "x, mm", "y, mm", "z, mm", "pitch", "roll", "yaw"]
        print(markdown_table(columns, poses_of_brats(args.brats, template, args.subjects)))
    elif args.brats and args.model:
        columns = ["subject", "Dice", "Dice by --native", "AP", "AP by --native", "correlation"]
        rows = map_rows(args.brats, load_model(args.model), args.subjects)
        print(markdown_table([*columns, "CPU s of prepare"], rows))
    elif args.brats:
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
            markdown_table(columns, brats_rows(args.brats, template, args.channels, args.subjects))
        )
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory: {peak_gb:.1f} GB")


if __name__ == "__main__":
    main()
