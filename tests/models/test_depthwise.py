"""Depthwise convolutions of our own against PyTorch's."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from medrd.models.depthwise import Axis, DepthwiseConv2d, _Depthwise, use_fast_depthwise

CHANNELS = 4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1.5e-2}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def depthwise(
    kernel: int = 3, stride: int = 1, padding: int = 1, *, same: bool = False, bias: bool = True
) -> nn.Conv2d:
    if same:
        return Conv2dSame(CHANNELS, CHANNELS, kernel, stride, groups=CHANNELS, bias=bias)
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=CHANNELS, bias=bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_gradients_are_those_of_the_padded_convolution(
    kernel: int, stride: int, dtype: torch.dtype
) -> None:
    for padding, size in product(
        [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (3, 3)], [(8, 9), (11, 8)]
    ):
        rows, columns = (Axis(n, kernel, stride, *padding) for n in size)
        image = torch.randn(2, CHANNELS, *size, dtype=dtype, requires_grad=True)
        weight = torch.randn(CHANNELS, 1, kernel, kernel, dtype=dtype, requires_grad=True)
        bias = torch.randn(CHANNELS, dtype=dtype, requires_grad=True)
        output: Tensor = _Depthwise.apply(image, weight, bias, rows, columns)
        grad = torch.randn_like(output)
        got = torch.autograd.grad(output, (image, weight, bias), grad)

        exact = [each.detach().double().requires_grad_() for each in (image, weight, bias)]
        padded = F.pad(exact[0], padding * 2)
        reference = F.conv2d(padded, exact[1], exact[2], stride, groups=CHANNELS)
        wanted = torch.autograd.grad(reference, exact, grad.double())
        for ours, theirs in zip((output, *got), (reference, *wanted), strict=True):
            assert ours.dtype == dtype
            error = (ours.double() - theirs).abs().max() / theirs.abs().max()
            assert error < TOLERANCE[dtype], (padding, size)


@pytest.mark.parametrize(("kernel", "stride", "before"), [(5, 1, 2), (3, 2, 0), (5, 2, 1)])
def test_gradcheck(kernel: int, stride: int, before: int) -> None:
    after = before + (stride == 2)
    image = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    axes = Axis(6, kernel, stride, before, after), Axis(7, kernel, stride, before, after)
    assert torch.autograd.gradcheck(
        lambda i, w: _Depthwise.apply(i, w, None, *axes), (image, weight)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("size", [(9, 12), (16, 16)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (5, 1), (7, 1)])
def test_stands_in_for_a_module(
    kernel: int, stride: int, size: tuple[int, int], autocast: bool, layout: torch.memory_format
) -> None:
    theirs = depthwise(kernel, stride, same=stride == 2)
    ours = DepthwiseConv2d(copy.deepcopy(theirs))
    image = torch.randn(2, CHANNELS, *size).contiguous(memory_format=layout)
    found = []
    for module in (ours, theirs):
        given = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = module(given)
            with torch.no_grad():
                torch.testing.assert_close(module(given), output, rtol=0, atol=0)
        (output.float() ** 2).sum().backward()
        gradients = [each.grad for each in (given, *module.parameters())]
        found.append((output, *gradients))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        scale = float(other.detach().abs().max())
        tolerance = TOLERANCE[torch.bfloat16 if autocast else torch.float32]
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


def test_a_network_keeps_its_parameters_and_gradients() -> None:
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3))
    ours = copy.deepcopy(theirs)
    use_fast_depthwise(ours)
    replaced = [m for m in ours.modules() if isinstance(m, DepthwiseConv2d)]
    assert len(replaced) == 16  # one in each block
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours = copy.deepcopy(ours)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for network in (ours, theirs):
        network.eval()  # with batch statistics some gradients are nothing but rounding
        sum((level**2).mean() for level in network(images)).backward()
    for (name, one), (_, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        if other.grad is None:  # after the last level
            assert one.grad is None
            continue
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-3 * scale, msg=name)


def test_only_what_needs_a_gradient_gets_one() -> None:
    module = DepthwiseConv2d(depthwise().requires_grad_(False))
    image = torch.randn(1, CHANNELS, 8, 8)
    assert not module(image).requires_grad
    image.requires_grad_()
    module(image).sum().backward()
    assert image.grad is not None
    assert module.weight.grad is None


def test_leaves_other_convolutions_alone() -> None:
    others = [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv1d(4, 4, 3, groups=4),
    ]
    network = nn.Sequential(*others)
    use_fast_depthwise(network)
    assert all(now is before for now, before in zip(network, others, strict=True))


@pytest.mark.parametrize("same", [False, True])
def test_exports_as_pytorchs_operators(same: bool) -> None:
    module = DepthwiseConv2d(depthwise(stride=2, same=same))
    image = torch.randn(1, CHANNELS, 9, 8)
    for program in (
        torch.export.export(module, (image,)).module(),
        torch.jit.trace(module, image),
        torch.compile(module, backend="eager", fullgraph=True),
    ):
        torch.testing.assert_close(program(image), module(image))
    graph = torch.export.export(module, (image,)).graph
    names = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert names <= {"aten.conv2d.default", "aten.pad.default"}


def test_float16_and_double_go_pytorchs_way() -> None:
    for dtype in (torch.float16, torch.float64):
        module = DepthwiseConv2d(depthwise(same=True, stride=2)).to(dtype)
        image = torch.randn(1, CHANNELS, 8, 8, dtype=dtype, requires_grad=True)
        output = module(image)
        assert "Depthwise" not in type(output.grad_fn).__name__
        assert output.dtype == dtype
