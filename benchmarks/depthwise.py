"""Training and prediction speed of a network with depthwise convolutions on a CPU.

medrd's convolutions (medrd/models/depthwise.py) and PyTorch's take turns within one process on
the same images, in processor time of one thread; the best of the rounds counts. What matters is
the ratio. A ResNet, which has no such convolutions, must come out at one.

    python benchmarks/depthwise.py
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import Tensor, nn

from medrd.models.depthwise import use_fast_depthwise
from medrd.run.table import markdown_table


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """Three levels of a timm backbone, with PyTorch's convolutions and with medrd's."""
    plain = timm.create_model(name, features_only=True, out_indices=(1, 2, 3))
    plain.to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    use_fast_depthwise(fast)
    return plain, fast


def train(network: nn.Module, images: Tensor, bfloat16: bool) -> None:
    """Forward and backward, with batch statistics."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        levels = network.train()(images)
    sum(level.float().pow(2).mean() for level in levels).backward()


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, bfloat16: bool) -> None:
    """Forward, with running statistics."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        network.eval()(images)


def best_seconds(
    work: Callable[[nn.Module], None], pair: tuple[nn.Module, ...], rounds: int
) -> list[float]:
    """Least processor seconds of each network, in turns, after one round to warm up."""
    best = [float("inf")] * len(pair)
    for turn in range(rounds + 1):
        for index, network in enumerate(pair):
            start = time.process_time()
            work(network)
            if turn:
                best[index] = min(best[index], time.process_time() - start)
    return best


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["tf_efficientnet_lite0", "resnet18"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.rand(options.batch, 3, options.size, options.size)
    images = images.contiguous(memory_format=torch.channels_last)
    rows = []
    for name in options.networks:
        pair = networks(name)
        for bfloat16 in (True, False):
            for work in (train, predict):
                step = partial(work, images=images, bfloat16=bfloat16)
                plain, fast = best_seconds(step, pair, options.rounds)
                kind = "bfloat16" if bfloat16 else "float32"
                seconds = [f"{plain:.2f}", f"{fast:.2f}", f"{plain / fast:.2f}"]
                rows.append([name, kind, work.__name__, *seconds])
    print(markdown_table(["network", "type", "pass", "PyTorch, s", "medrd, s", "ratio"], rows))


if __name__ == "__main__":
    main()
