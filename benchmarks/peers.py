"""RD4AD's training and prediction in medrd and in another implementation, in turns on one machine.

    python benchmarks/peers.py                                  # anomalib, ResNet-18 at 256²
    python benchmarks/peers.py --teacher wide_resnet50_2
    python benchmarks/peers.py --python path/to/env/bin/python  # an environment that has anomalib
    python benchmarks/peers.py --released path/to/RD4AD         # github.com/hq-deng/RD4AD instead

Without --python, uv installs anomalib into an environment of its own in a temporary folder (6 GB).
Both have random weights, the same images of 3 channels, batch size, and Adam. Times are processor
time of all threads, from images in memory to weights after a step, or to smoothed maps. medrd's
share of the matrix rate compares its convolutions' operations in a second with those of a product
of two large matrices, about the most that the machine can do.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ANOMALIB = "anomalib==2.7.*"
Work = dict[str, Callable[[], object]]


def random_images(size: int, batch_size: int) -> torch.Tensor:
    """The same (B, 3, H, W) for both."""
    return torch.rand(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))


def anomalibs(teacher: str, size: int, batch_size: int) -> Work:
    """What anomalib's LightningModule does with a batch, without Lightning."""
    from anomalib.models.image.reverse_distillation.loss import (  # type: ignore[import-not-found]
        ReverseDistillationLoss,
    )
    from anomalib.models.image.reverse_distillation.torch_model import (  # type: ignore[import-not-found]
        ReverseDistillationModel,
    )

    images = random_images(size, batch_size)
    layers = ("layer1", "layer2", "layer3")
    model = ReverseDistillationModel(teacher, (size, size), layers, "add", pre_trained=False)
    loss = ReverseDistillationLoss()
    learning = [*model.decoder.parameters(), *model.bottleneck.parameters()]
    optimiser = torch.optim.Adam(learning, lr=0.005, betas=(0.5, 0.99))

    def train() -> None:
        model.train()
        optimiser.zero_grad()
        loss(*model(images)).backward()
        optimiser.step()

    @torch.inference_mode()
    def predict() -> object:
        return model.eval()(images)

    return {"train": train, "predict": predict}


def released(folder: Path, teacher: str, size: int, batch_size: int) -> Work:
    """What the authors' ``main.py`` and ``test.py`` do with a batch, with their networks."""
    import importlib

    from scipy.ndimage import gaussian_filter
    from torch.nn import functional as F

    if not (folder / "de_resnet.py").is_file():
        raise SystemExit(f"{folder} holds no de_resnet.py; expected a checkout of hq-deng/RD4AD")
    sys.path.insert(0, str(folder))
    encoder, bottleneck = getattr(importlib.import_module("resnet"), teacher)(pretrained=False)
    decoder = getattr(importlib.import_module("de_resnet"), f"de_{teacher}")(pretrained=False)
    encoder.eval()
    images = random_images(size, batch_size)
    learning = [*decoder.parameters(), *bottleneck.parameters()]
    optimiser = torch.optim.Adam(learning, lr=0.005, betas=(0.5, 0.999))

    def train() -> None:
        bottleneck.train()
        decoder.train()
        features = encoder(images)
        outputs = decoder(bottleneck(features))
        cosines = [
            F.cosine_similarity(a.flatten(1), b.flatten(1))
            for a, b in zip(features, outputs, strict=True)
        ]
        optimiser.zero_grad()
        torch.stack([(1 - each).mean() for each in cosines]).sum().backward()
        optimiser.step()

    @torch.no_grad()
    def predict() -> object:
        bottleneck.eval()
        decoder.eval()
        return [map_of(image) for image in images.split(1)]  # as its test loader

    def map_of(image: torch.Tensor) -> object:
        features = encoder(image)
        outputs = decoder(bottleneck(features))
        levels = [
            F.interpolate(
                1 - F.cosine_similarity(a, b)[:, None], size, mode="bilinear", align_corners=True
            )
            for a, b in zip(features, outputs, strict=True)
        ]
        return gaussian_filter(torch.stack(levels).sum(0)[0, 0].numpy(), sigma=4)

    return {"train": train, "predict": predict}


def medrds(teacher: str, size: int, batch_size: int) -> Work:
    """What ``medrd train`` and ``predict`` do with a batch that they have not seen before."""
    from dataclasses import replace

    from medrd.config import make_config
    from medrd.data.slices import HealthySlices, SliceBatch
    from medrd.models.fused import fused
    from medrd.run.device import choose_execution
    from medrd.run.model_folder import make_detector, make_scoring
    from medrd.run.predictor import Predictor
    from medrd.training.checkpoint import Position
    from medrd.training.loop import Loop
    from medrd.training.setup import Training

    images = random_images(size, batch_size).numpy()
    region = np.ones((batch_size, size, size), bool)
    config = make_config(
        {
            "model": {"name": "rd4ad", "teacher": {"name": teacher, "weights": "random"}},
            "data": {"kind": "pictures", "layout": "mvtec"},
            "recipe": {"size": size, "colour": "rgb"},
        }
    )
    detector = make_detector(config)
    execution = choose_execution("cpu")
    # As medrd.run.engine chooses.
    engine = Predictor(
        fused(detector),
        make_scoring(config.scoring, size=size),
        replace(execution, channels_last=True),
        batch_size=16 if execution.bf16 else 4,
    )
    execution.place(detector)
    detector.train()
    loop = Loop(Training(config, Path(), HealthySlices([], margin=0), detector, execution))
    batch = SliceBatch(images, region)
    return {
        "train": lambda: loop.iteration(batch, Position(0, 1)),
        "predict": lambda: engine.maps(images, region),
    }


def seconds_an_image(work: Callable[[], object], repeats: int, batch_size: int) -> float:
    """Median processor time of a batch, over its images."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times) / batch_size


def serve(args: argparse.Namespace) -> None:
    """The other side: a number of milliseconds for each line that names a kind of work."""
    of = (args.teacher, args.size, args.batch_size)
    work = released(args.released, *of) if args.released else anomalibs(*of)
    for line in sys.stdin:
        seconds = seconds_an_image(work[line.strip()], args.repeats, args.batch_size)
        print(f"ms {1000 * seconds}", flush=True)


def install(folder: Path) -> Path:
    """A new environment's Python."""
    python = folder / "bin" / "python"
    for command in (
        ["uv", "venv", "--quiet", str(folder)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), ANOMALIB],
    ):
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"anomalib was not measured, as it cannot be installed: {error}"
            ) from None
    return python


def compare(args: argparse.Namespace, python: Path) -> None:
    """Measure in turns and print the table."""
    from startup import machine

    from medrd.run.device import choose_execution
    from medrd.run.table import markdown_table

    other = "RD4AD's released code" if args.released else ANOMALIB
    own = medrds(args.teacher, args.size, args.batch_size)
    words = [str(python), __file__, "--serve", "--teacher", args.teacher, "--size", str(args.size)]
    words += ["--batch-size", str(args.batch_size), "--repeats", str(args.repeats)]
    words += ["--threads", str(args.threads)]
    words += ["--released", str(args.released)] if args.released else []
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in own}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        for number in range(args.rounds + 1):
            for name, work in own.items():
                mine = 1000 * seconds_an_image(work, args.repeats, args.batch_size)
                peer.stdin.write(f"{name}\n")
                peer.stdin.flush()
                answer = next((line for line in peer.stdout if line.startswith("ms ")), None)
                if answer is None:
                    raise SystemExit(f"{other} was not measured; its process ended (see above)")
                if number:  # the first builds the kernels
                    rounds[name].append((mine, float(answer.split()[1])))
        peer.stdin.close()
    precision = choose_execution("cpu").precision
    operations = convolution_operations(args)
    rate = matrix_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
    rows = []
    for name, pairs in rounds.items():
        ratios = [theirs / mine for mine, theirs in pairs]
        mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        share = f"{operations[name] / (mine / 1000) / rate:.0%}"
        rows.append([name, f"{mine:.0f}", f"{theirs:.0f}", span, share])
    print(f"RD4AD, {args.teacher}, {args.size}², batch {args.batch_size}, {args.threads} thread(s)")
    print(f"medrd in {precision}, {other} in fp32; ms of processor time an image; {machine()}")
    print(f"matrix rate in {precision}: {rate / 1e9:.0f} billion operations a second of a core\n")
    header = ["work", "medrd", other, "ratio (least to most)", "medrd's share of the matrix rate"]
    print(markdown_table(header, rows))


def convolution_operations(args: argparse.Namespace) -> dict[str, float]:
    """Multiplications and additions an image of each kind of work, of the convolutions alone."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = {}
    for name, work in medrds(args.teacher, args.size, args.batch_size).items():
        with FlopCounterMode(display=False) as counter:
            work()
        counts[name] = counter.get_total_flops() / args.batch_size
    return counts


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of processor time, at the best of several products of matrices."""
    side = 2048
    matrix = torch.rand(side, side).to(dtype)
    times = []
    for _ in range(6):
        start = time.process_time()
        matrix @ matrix
        times.append(time.process_time() - start)
    return 2 * side**3 / min(times)


def main() -> None:
    """Compare, or serve the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", default="resnet18", help="a ResNet, which anomalib can invert")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="batches in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", type=Path, help="of an environment with anomalib")
    parser.add_argument("--released", type=Path, help="a checkout of hq-deng/RD4AD, not anomalib")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    if args.serve:
        serve(args)
    elif args.python or args.released:
        compare(args, args.python or Path(sys.executable))
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(args, install(Path(folder) / "env"))


if __name__ == "__main__":
    main()
