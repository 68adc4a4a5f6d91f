"""How often the guard at prediction warns: of right scans, where it should not, and of wrong ones.

    python benchmarks/guard.py --brats /data/brats
    python benchmarks/guard.py --brats /data/brats --model run

The first table holds each subject against a profile of all the others, modality by modality. The
second, of a trained model's own profile, counts the subjects that it was made from apart from the
rest. Both judge by looks alone: the files' names, which say more, are not asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from medrd.data.brains.prepare import brain_mask
from medrd.data.brains.profile import Profile, make_profile, unlike
from medrd.data.layouts import MODALITIES, Subject, find_subjects
from medrd.data.traits import ScanTraits, scan_traits
from medrd.images.nifti import read_nifti
from medrd.images.volume import Volume, volume_from_array
from medrd.run.model_folder import load_model
from medrd.run.table import markdown_table

Volumes = Mapping[str, Volume]
Change = Callable[[Volume], Volume]


def looks(volumes: Volumes) -> ScanTraits:
    """As prediction has them."""
    return scan_traits(volumes, brain_mask(volumes))


def read(subject: Subject) -> dict[str, Volume]:
    """All modalities."""
    return {kind: read_nifti(source.path) for kind, source in subject.images.items()}


# --- Each subject against the others ---


def against_the_others(subjects: list[Subject]) -> str:
    """A row a profile's modality, a column a scan's: of how many subjects the guard warns."""
    seen: dict[str, list[ScanTraits]] = {kind: [] for kind in MODALITIES}
    for subject in subjects:
        for kind, volume in read(subject).items():
            seen[kind].append(looks({"scan": volume}))
    rows = []
    for known, own in seen.items():
        profiles = [make_profile(own[:i] + own[i + 1 :]) for i in range(len(own))]
        counts = [
            sum(bool(unlike(scan, profile)) for scan, profile in zip(scans, profiles, strict=True))
            for scans in seen.values()
        ]
        rows.append([known, *(f"{count} of {len(subjects)}" for count in counts)])
    return markdown_table(["profile of", *(f"{kind} scan" for kind in seen)], rows)


# --- A model's own profile ---


def flipped(volume: Volume) -> Volume:
    """Upside down (BraTS's third axis runs upwards), the header left as it was."""
    return volume_from_array(volume.array[:, :, ::-1], volume.affine)


def noisy(volume: Volume) -> Volume:
    """A scan whose background was never set to 0."""
    noise = np.random.default_rng(0).rayleigh(10, volume.shape)
    return volume_from_array(np.where(volume.array == 0, noise, volume.array), volume.affine)


def hounsfield(volume: Volume) -> Volume:
    """Air at -1000, as in CT."""
    return volume_from_array(volume.array - 1000, volume.affine)


def doubled(volume: Volume) -> Volume:
    """Voxels of twice the edge, as a wrong header has them."""
    return volume_from_array(volume.array, volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))


CHANGES: dict[str, Change] = {
    "as it is": lambda volume: volume,
    "upside down": flipped,
    "noise around the brain": noisy,
    "values as of CT": hounsfield,
    "voxels twice as large": doubled,
}


def variants(volumes: Volumes, channels: tuple[str, ...]) -> dict[str, dict[str, Volume]]:
    """A subject as the model takes it, and wrong in one way each."""
    right = {channel: volumes[channel] for channel in channels}
    made = {
        name: {channel: change(volume) for channel, volume in right.items()}
        for name, change in CHANGES.items()
    }
    first = channels[0]
    others = {kind: volume for kind, volume in volumes.items() if kind not in channels}
    return made | {f"{k} for {first}": right | {first: v} for k, v in others.items()}


def by_a_model(
    profile: Profile, channels: tuple[str, ...], subjects: list[Subject], known: set[str]
) -> str:
    """A row a change: of how many subjects, the model's own and others, the guard warns."""
    counts: dict[str, dict[bool, list[bool]]] = {}
    for subject in subjects:
        for name, volumes in variants(read(subject), channels).items():
            warned = bool(unlike(looks(volumes), profile))
            counts.setdefault(name, {True: [], False: []})[subject.id in known].append(warned)
    rows = [
        [name, *(f"{sum(found[own])} of {len(found[own])}" for own in (True, False))]
        for name, found in counts.items()
    ]
    return markdown_table(["scan", "of the model's own", "of others"], rows)


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--brats", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="A run or model folder, trained on scans.")
    args = parser.parse_args()
    subjects = find_subjects(args.brats, layout="auto", channels=MODALITIES)
    print(against_the_others(subjects), flush=True)
    if args.model:
        model = load_model(args.model)
        channels = getattr(model.recipe, "channels", ())
        if model.profile is None or not channels:
            parser.error(f"{args.model} has no profile of training scans")
        known = {
            name
            for key in ("subjects", "calibration_subjects")
            for name in model.training.get(key, {})
        }
        print(f"\n{model.config.model.name} ({', '.join(channels)}), {model.profile.scans} scans\n")
        print(by_a_model(model.profile, channels, subjects, known))


if __name__ == "__main__":
    main()
