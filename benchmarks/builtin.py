"""Makes the model that comes with medrd: trained and calibrated on phantoms alone.

    OMP_NUM_THREADS=1 python benchmarks/builtin.py configs/brats/builtin.yaml --out builtin

`make builtin` runs this. Each of the ``model.members`` networks has its own seed and its own
phantoms. Both are kept in OUT/NUMBER, where a second run finds them. The result is OUT/model.
Training has three rounds: ``train.epochs`` passes over one half of the phantoms, as many over the
other, and half as many over all. Each begins with the weights of the round before and ends with a
learning rate of 0, so that fewer rounds give a model too. See docs/builtin.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from without import NETWORK, STREAM

from medrd.config import Config, RecipeConfig, load_config
from medrd.data.brains.prepare import prepare_slices
from medrd.data.brains.profile import make_profile
from medrd.data.brains.sequences import OtherSequence, appearance
from medrd.data.cache import CachedSubject
from medrd.data.traits import ScanTraits
from medrd.files import atomic_path, write_json
from medrd.images.volume import volume_from_array
from medrd.models.outline import Outline, OutlineConfig
from medrd.phantom.cohort import Sort
from medrd.phantom.varied import make_varied
from medrd.run.calibration import calibrate
from medrd.run.cohort import contents_of, load_cohort, try_sides
from medrd.run.device import choose_execution
from medrd.run.model_folder import make_scoring, save_model
from medrd.run.phantoms import make_phantoms
from medrd.run.predictor import Predictor
from medrd.training.checkpoint import Position
from medrd.training.labelled import LabelledSlices, as_simulated
from medrd.training.loop import Loop
from medrd.training.setup import Training, build_detector_for

OTHERS = ("t1", "t1ce", "t2")


Appearance = NDArray[np.float32]
Job = tuple[int, Config, str]


def learn_others(
    own: Sequence[Appearance], config: Config, *, workers: int
) -> tuple[OtherSequence, ...]:
    """The rules that tell T1-like and T2-like phantoms from FLAIR phantoms."""
    jobs: list[Job] = [(index, config, OTHERS[index % len(OTHERS)]) for index in range(240)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        others = list(pool.map(simulated_appearance, jobs))
    return tuple(
        OtherSequence.learn(name, own, [others[index] for index, _, of in jobs if of in like])
        for name, like in (("T1", ("t1", "t1ce")), ("T2", ("t2",)))
    )


def simulated_appearance(job: Job) -> Appearance:
    """The appearance of a phantom."""
    index, config, modality = job
    assert isinstance(config.recipe, RecipeConfig)
    scan = make_varied(index, seed=config.seed, modality=modality)
    volume = volume_from_array(scan.image, scan.affine)
    prepared = prepare_slices({modality: volume}, config.recipe, quick=True)
    return appearance_of(
        prepared.traits, prepared.images.astype(np.float16), prepared.region, config
    )


def appearance_of(
    traits: ScanTraits | None,
    images: NDArray[np.floating],
    region: NDArray[np.bool_],
    config: Config,
) -> Appearance:
    """The appearance of slices (S, C, H, W), as training and calibration hold them."""
    assert isinstance(config.recipe, RecipeConfig)
    assert traits is not None
    pixel_mm = config.recipe.field_mm / config.recipe.size
    (channel,) = traits.channels.values()
    return appearance(channel.tone, images[:, 0], region, pixel_mm=pixel_mm)


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


@dataclass(frozen=True)
class Plan:
    """How one network is trained."""

    config: Config
    out: Path
    phantoms: int
    healthy: int
    rounds: int
    workers: int


@dataclass(frozen=True)
class Member:
    """A trained network, and its phantoms."""

    weights: dict[str, Tensor]
    losses: list[float]
    contents: dict[str, str]
    slices: int
    traits: list[ScanTraits]
    appearances: list[Appearance]
    held_out: list[CachedSubject]


def train_member(plan: Plan) -> Member:
    """Simulate phantoms, and train a network on all of their slices with their labels."""
    started, config = time.time(), phantoms(plan)
    recipe = config.recipe
    assert isinstance(recipe, RecipeConfig)
    cohort = load_cohort(config)
    detector = build_detector_for(config)
    assert isinstance(detector, Outline)
    execution = choose_execution(config.train.device, config.train.precision)
    slices = LabelledSlices(cohort.side("train"), recipe, config.data.budget)
    rounds, index = plan.rounds, slices.index
    half = len(slices.labelled) // (1 if rounds == 1 else 2)
    print(f"{len(slices)} slices, {time.time() - started:.0f} s", flush=True)
    first, second = [[each for each in index if (each[0] < half) == low] for low in (True, False)]
    passes, losses = config.train.epochs, []
    schedule = [(first, passes), (second, passes), (index, max(1, passes // 2))]
    kept = plan.out / "network.pt"
    if kept.is_file():
        losses, weights = torch.load(kept, weights_only=True)
        detector.members[0].load_state_dict(weights)
        schedule = []
    for part, epochs in schedule[:rounds]:
        slices.index = part
        shorter = config.train.model_copy(update={"epochs": epochs})
        this = config.model_copy(update={"train": shorter})
        losses += train(Training(this, plan.out, slices, execution.place(detector), execution))
    weights = {name: each.cpu() for name, each in detector.members[0].state_dict().items()}
    with atomic_path(kept) as path:
        torch.save((losses, weights), path)
    cached, errors = try_sides(cohort, ("calibration",), config)
    if errors:
        raise errors[0]
    held_out = [cached[name] for name in cohort.split.calibration]
    return Member(
        weights=weights,
        losses=losses,
        contents=slices.contents,
        slices=len(index),
        traits=[*slices.traits, *(each.traits for each in held_out if each.traits is not None)],
        appearances=[
            appearance_of(each.traits, each.images, each.region, config)
            for some in (slices.labelled, held_out)
            for each in some
        ],
        held_out=held_out,
    )


def phantoms(plan: Plan) -> Config:
    """Simulate the cohort, and split it: varied brains train, healthy ones calibrate."""
    config = plan.config

    def simulated(sort: Sort, count: int) -> list[str]:
        brains = plan.out / "brains"
        made = make_phantoms(brains, count, seed=config.seed, sort=sort, workers=plan.workers)
        return [folder.name for folder in made]

    names = {
        "train": simulated("varied", plan.phantoms),
        "calibration": simulated("healthy", plan.healthy),
    }
    data = config.data.model_dump() | {
        "root": plan.out / "brains",
        "cache": plan.out / "cache",
        "split": {**names, "test": 0},
    }
    return Config.model_validate(config.model_dump() | {"data": data})


def assemble(
    config: Config, members: Sequence[Member], out: Path, *, workers: int, guarded: bool
) -> None:
    """Set the threshold of the members' mean, and write the model folder.

    Where it is not ``guarded``, its profile has no rules for other sequences.
    """
    detector = build_detector_for(config)
    assert isinstance(detector, Outline)
    for network, member in zip(detector.members, members, strict=True):
        network.load_state_dict(member.weights)
    execution = choose_execution(config.train.device, config.train.precision)
    # Members' phantoms have the same names.
    held_out = [
        replace(each, id=f"{number}/{each.id}")
        for number, member in enumerate(members)
        for each in member.held_out
    ]
    # The first member's phantoms are as varied as those of all, and the rules take time to learn.
    profile = make_profile(members[0].traits)
    if guarded:
        assert isinstance(config.recipe, RecipeConfig)
        others = learn_others(members[0].appearances, config, workers=workers)
        (name,) = config.recipe.channels
        channel = replace(profile.channels[name], others=others)
        profile = replace(profile, channels={name: channel})
    scoring = make_scoring(config.scoring, size=config.recipe.size)
    calibration = calibrate(
        Predictor(execution.place(detector), scoring, execution),
        held_out,
        margin=0,
        target_fpr=config.calibration.voxel_fpr,
    )
    save_model(
        out / "model",
        detector,
        config,
        calibration=calibration,
        training={
            "subjects": {
                f"{number}/{name}": content
                for number, member in enumerate(members)
                for name, content in member.contents.items()
            },
            "calibration_subjects": contents_of(held_out),
            "slices": sum(member.slices for member in members),
            "labelled": True,
            "seed": config.seed,
        },
        profile=profile,
        precision=execution.precision,
    )


def main() -> None:
    """Simulate, train, calibrate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=420, help="to train each network on")
    parser.add_argument(
        "--healthy", type=int, default=24, help="of each network, to set the threshold on"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, choices=(1, 2, 3), default=3, help="1: on a half alone"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument(
        "--without", choices=[*STREAM, *NETWORK], help="an ablation; give each its own --out"
    )
    args, started = parser.parse_args(), time.time()
    if args.without in STREAM:
        STREAM[args.without]()
        args.workers = 1  # other processes would have all ingredients
    elif args.without:
        args.overrides.append(NETWORK[args.without])
    if args.without:
        args.overrides.append("model.members=1")
    config = load_config(args.config, args.overrides)
    assert isinstance(config.model, OutlineConfig)
    count = config.model.members
    alone = config.model.model_copy(update={"members": 1})
    plans = [
        Plan(
            config=config.model_copy(update={"model": alone, "seed": config.seed + number}),
            out=args.out / str(number),
            phantoms=args.phantoms if args.rounds > 1 else args.phantoms // 2,
            healthy=args.healthy,
            rounds=args.rounds,
            workers=max(1, args.workers // count),
        )
        for number in range(count)
    ]
    if args.workers > 1 and count > 1:
        # All at once, whatever the number of workers: three networks on two cores would otherwise
        # leave one core idle for a third of the time.
        with ProcessPoolExecutor(count, get_context("spawn")) as pool:
            members = list(pool.map(train_member, plans))
    else:
        members = [train_member(plan) for plan in plans]
    guarded = args.without is None
    assemble(config, members, args.out, workers=args.workers, guarded=guarded)
    losses = [member.losses for member in members]
    write_json(args.out / "build.json", {"seconds": round(time.time() - started), "losses": losses})


if __name__ == "__main__":
    main()
