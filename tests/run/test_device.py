"""Device and precision: what is computed in which, while a network trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from medrd.run import device as device_module
from medrd.run.device import Execution, bf16_ratio, choose_execution

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


@pytest.mark.parametrize(("ratio", "precision"), [(1.9, "bf16"), (1.1, "fp32")])
def test_instructions_for_bfloat16_without_amx_are_used_only_if_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, ratio: float, precision: str
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(device_module, "bf16_ratio", lambda: ratio)
    assert choose_execution("cpu").precision == precision


def test_measuring_takes_one_thread_and_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    bf16_ratio.cache_clear()
    try:
        torch.set_num_threads(2)
        assert bf16_ratio() > 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
