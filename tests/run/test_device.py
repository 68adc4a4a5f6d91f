"""Device and precision: what is computed in which, while a network trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from medrd.run.device import Execution, choose_execution

BF16 = Execution(torch.device("cpu"), bf16=True)


def gradients(network: nn.Module, images: Tensor, execution: Execution) -> list[Tensor]:
    """Gradients of the sum of squares of the network's output."""
    network = execution.place(copy.deepcopy(network))
    with execution.autocast():
        (network(images) ** 2).sum().backward()
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


@pytest.mark.parametrize("groups", [8, 4, 1])
def test_only_depthwise_convolutions_are_trained_in_float32(groups: int) -> None:
    """The bits tell in which type a convolution was computed."""
    torch.manual_seed(0)
    network = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    images = torch.randn(2, 8, 16, 16)
    (exact,) = gradients(network, images, Execution(torch.device("cpu"), bf16=False))
    (plain,) = gradients(network, images, BF16)
    (mixed,) = gradients(network, images, BF16.for_training(network))
    if groups == 8:
        # The output alone was rounded.
        error = (mixed - exact).norm() / exact.norm()
        assert error < 0.5 * (plain - exact).norm() / exact.norm()
        assert error > 0
    else:
        assert torch.equal(mixed, plain)


def test_a_frozen_depthwise_convolution_stays_in_bfloat16() -> None:
    network = nn.Conv2d(8, 8, 3, groups=8)
    images = torch.randn(2, 8, 16, 16)
    execution = BF16.for_training(network)
    network.requires_grad_(False)
    with BF16.autocast():
        expected = network(images)
    with execution.autocast():
        assert torch.equal(network(images), expected)


def test_bfloat16_is_chosen_only_where_onednn_may_use_its_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not choose_execution("cpu").bf16
    assert choose_execution("cpu", "bf16").bf16
