"""How often the guard at prediction warns about correct scans (wrongly) and about wrong ones.

    python benchmarks/guard.py --brats /data/brats
    python benchmarks/guard.py --brats /data/brats --model run

The first table compares each subject with a profile of all others, for each pair of modalities.
The second uses a trained model's profile, and counts the subjects from which the profile was made
separately. Both use the images only; the guard also checks the modality in file names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from medrd.data.brains.layouts import find_subjects
from medrd.data.brains.prepare import brain_mask
from medrd.data.brains.profile import Profile, make_profile, unlike
from medrd.data.names import MODALITIES
from medrd.data.subject import Subject
from medrd.data.traits import ScanTraits, scan_traits
from medrd.images.nifti import read_nifti
from medrd.images.volume import Volume, volume_from_array
from medrd.run.model_folder import load_model
from medrd.run.table import markdown_table

Volumes = Mapping[str, Volume]
Change = Callable[[Volume], Volume]


def traits_of(volumes: Volumes) -> ScanTraits:
    """The traits that prediction compares with the profile."""
    return scan_traits(volumes, brain_mask(volumes))


def read(subject: Subject) -> dict[str, Volume]:
    """All modalities."""
    return {kind: read_nifti(source.path) for kind, source in subject.images.items()}


# --- Each subject against the others ---


def against_the_others(subjects: list[Subject]) -> str:
    """A table of how many subjects the guard warns about: profiles' modalities × scans'."""
    seen: dict[str, list[ScanTraits]] = {kind: [] for kind in MODALITIES}
    for subject in subjects:
        for kind, volume in read(subject).items():
            seen[kind].append(traits_of({"scan": volume}))
    rows = []
    for profiled, own in seen.items():
        profiles = [make_profile(own[:i] + own[i + 1 :]) for i in range(len(own))]
        counts = [
            sum(bool(unlike(scan, profile)) for scan, profile in zip(scans, profiles, strict=True))
            for scans in seen.values()
        ]
        rows.append([profiled, *(f"{count} of {len(subjects)}" for count in counts)])
    return markdown_table(["profile of", *(f"{kind} scan" for kind in seen)], rows)


# --- A model's own profile ---


def flipped(volume: Volume) -> Volume:
    """Turn the array upside down (BraTS's third axis runs upwards), with the same header."""
    return volume_from_array(volume.array[:, :, ::-1], volume.affine)


def noisy(volume: Volume) -> Volume:
    """Add noise to the background, which is not 0 then."""
    noise = np.random.default_rng(0).rayleigh(10, volume.shape)
    return volume_from_array(np.where(volume.array == 0, noise, volume.array), volume.affine)


def hounsfield(volume: Volume) -> Volume:
    """Shift values so that air is at -1000, as in CT."""
    return volume_from_array(volume.array - 1000, volume.affine)


def doubled(volume: Volume) -> Volume:
    """Double the edges of the voxels in the header."""
    return volume_from_array(volume.array, volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))


CHANGES: dict[str, Change] = {
    "unchanged": lambda volume: volume,
    "upside down": flipped,
    "noise around the brain": noisy,
    "values as in CT": hounsfield,
    "voxels twice as large": doubled,
}


def variants(volumes: Volumes, channels: tuple[str, ...]) -> dict[str, dict[str, Volume]]:
    """A subject as the model expects it, and with one error each."""
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
            warned = bool(unlike(traits_of(volumes), profile))
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
