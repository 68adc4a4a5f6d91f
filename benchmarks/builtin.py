"""Makes the model that comes with medrd: trained and calibrated on phantoms alone.

    python benchmarks/builtin.py configs/brats/builtin.yaml --out builtin

`make builtin` runs this. The phantoms are kept in OUT/brains; a second run takes them from there.
The result is OUT/model. Training has three rounds: ``train.epochs`` passes over one half of the
phantoms, as many over the other, and half as many over all. Each begins with the weights of the
round before and ends with a learning rate of 0, so that fewer rounds give a model too. See
docs/builtin.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from without import NETWORK, STREAM

from medrd.config import Config, RecipeConfig, load_config
from medrd.data.brains.prepare import brain_mask
from medrd.data.brains.profile import Profile, make_profile
from medrd.data.brains.sequences import OtherSequence
from medrd.data.traits import ScanTraits, scan_traits
from medrd.files import write_json
from medrd.images.volume import volume_from_array
from medrd.phantom.cohort import Sort
from medrd.phantom.varied import make_varied
from medrd.run.calibration import calibrate
from medrd.run.cohort import contents_of, load_cohort, try_sides
from medrd.run.device import choose_execution
from medrd.run.model_folder import save_model
from medrd.run.phantoms import make_phantoms
from medrd.training.checkpoint import Position
from medrd.training.labelled import LabelledSlices, as_simulated
from medrd.training.loop import Loop
from medrd.training.setup import Training, build_detector_for

OTHERS = ("t1", "t1ce", "t2")


def phantoms(config: Config, out: Path, *, sick: int, healthy: int, workers: int) -> Config:
    """Simulate the cohort, and split it: varied brains train, healthy ones calibrate."""

    def simulated(sort: Sort, count: int) -> list[str]:
        brains = out / "brains"
        made = make_phantoms(brains, count, seed=config.seed, sort=sort, workers=workers)
        return [folder.name for folder in made]

    names = {"train": simulated("varied", sick), "calibration": simulated("healthy", healthy)}
    data = config.data.model_dump() | {
        "root": out / "brains",
        "cache": out / "cache",
        "split": {**names, "test": 0},
    }
    return Config.model_validate(config.model_dump() | {"data": data})


def profile_of(traits: Sequence[ScanTraits], config: Config, *, workers: int) -> Profile:
    """What the phantoms look like, and in what T1-like and T2-like ones differ from them."""
    profile = make_profile(traits)
    assert isinstance(config.recipe, RecipeConfig)
    (name,) = config.recipe.channels
    own = [scan.channels[name].tone for scan in traits]
    jobs = [(index, config.seed, OTHERS[index % len(OTHERS)]) for index in range(240)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        tones = list(pool.map(tone_of, jobs))
    others = tuple(
        OtherSequence.learn(
            words, own, [t for t, job in zip(tones, jobs, strict=True) if job[2] in of]
        )
        for words, of in (("T1", ("t1", "t1ce")), ("T2", ("t2",)))
    )
    channel = replace(profile.channels[name], others=others)
    return replace(profile, channels={name: channel})


def tone_of(job: tuple[int, int, str]) -> NDArray[np.float32]:
    """The tone of a phantom by index, seed and modality."""
    index, seed, modality = job
    scan = make_varied(index, seed=seed, modality=modality)
    volumes = {modality: volume_from_array(scan.image, scan.affine)}
    return scan_traits(volumes, brain_mask(volumes)).channels[modality].tone


def train(training: Training) -> list[float]:
    """One round of training; the loss of each pass."""
    loop = Loop(training)
    loop.simulator = as_simulated
    position, losses = Position(), []
    while position.epoch < loop.epochs:
        position, report = loop.epoch(position)
        assert report is not None
        assert report.loss is not None
        losses.append(report.loss)
        print(
            f"epoch {report.epoch}: loss {report.loss:.4f}, {report.seconds:.0f} s, "
            f"{100 * report.wait_share:.0f} % of them waiting for slices",
            flush=True,
        )
    return losses


def build(config: Config, out: Path, *, rounds: int, workers: int, guarded: bool) -> None:
    """Train on all slices with their labels, set the threshold, and write the model folder.

    Where it is not ``guarded``, its profile has no rules for other sequences.
    """
    started, recipe = time.time(), config.recipe
    assert isinstance(recipe, RecipeConfig)
    cohort = load_cohort(config)
    detector = build_detector_for(config)
    execution = choose_execution(config.train.device, config.train.precision)
    slices = LabelledSlices(cohort.side("train"), recipe, config.data.budget)
    index, half = slices.index, len(slices.labelled) // (1 if rounds == 1 else 2)
    print(f"{len(slices)} slices, {time.time() - started:.0f} s", flush=True)
    first, second = [[each for each in index if (each[0] < half) == low] for low in (True, False)]
    passes, losses = config.train.epochs, []
    plan = [(first, passes), (second, passes), (index, max(1, passes // 2))]
    for slices.index, epochs in plan[:rounds]:
        shorter = config.train.model_copy(update={"epochs": epochs})
        this = config.model_copy(update={"train": shorter})
        losses += train(Training(this, out, slices, execution.place(detector), execution))
    slices.index = index
    cached, errors = try_sides(cohort, ("calibration",), config)
    if errors:
        raise errors[0]
    held_out = [cached[name] for name in cohort.split.calibration]
    # The rules weigh these against as many of other sequences: half of the phantoms are enough.
    traits = [*slices.traits[:half], *(each.traits for each in held_out if each.traits is not None)]
    training = Training(config, out, slices, detector, execution)
    calibration = calibrate(
        training.predictor(), held_out, margin=0, target_fpr=config.calibration.voxel_fpr
    )
    save_model(
        out / "model",
        detector,
        config,
        calibration=calibration,
        training={
            "subjects": slices.contents,
            "calibration_subjects": contents_of(held_out),
            "split_hash": cohort.split.hash,
            "slices": len(slices),
            "labelled": True,
            "seed": config.seed,
        },
        profile=profile_of(traits, config, workers=workers) if guarded else make_profile(traits),
        precision=execution.precision,
    )
    write_json(out / "build.json", {"seconds": round(time.time() - started), "losses": losses})


def main() -> None:
    """Simulate, train, calibrate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=420, help="to train on")
    parser.add_argument("--healthy", type=int, default=24, help="to set the threshold on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, choices=(1, 2, 3), default=3, help="1: on a half alone"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument(
        "--without", choices=[*STREAM, *NETWORK], help="an ablation; give each its own --out"
    )
    args = parser.parse_args()
    if args.without in STREAM:
        STREAM[args.without]()
        args.workers = 1  # other processes would have all ingredients
    elif args.without:
        args.overrides.append(NETWORK[args.without])
    config = load_config(args.config, args.overrides)
    sick = args.phantoms if args.rounds > 1 else args.phantoms // 2
    config = phantoms(config, args.out, sick=sick, healthy=args.healthy, workers=args.workers)
    build(config, args.out, rounds=args.rounds, workers=args.workers, guarded=args.without is None)


if __name__ == "__main__":
    main()
