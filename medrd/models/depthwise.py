"""Depthwise convolutions that train fast on a CPU.

PyTorch hands convolutions on a CPU to oneDNN, whose forward pass of a depthwise one is good.
Two of its backward passes are not: the gradient of a strided convolution with respect to its
input (bfloat16), and that with respect to a kernel wider than three columns. They fall through to
routines for ordinary grouped convolutions, which took 10 to 25 times as long as the ways below
(bfloat16, EfficientNet-Lite0's shapes, one core; benchmarks/depthwise.py times the network):

- the gradient with respect to the input is a forward convolution of the output's gradient with
  the turned kernel; for a stride of s, one for each of the s x s phases of the input's grid,
- the gradient with respect to the kernel is taken for three of its columns at a time.

TensorFlow's "same" padding, which may add one more row below than above, is had from a kernel
with a leading row of zeros instead of from a padded copy of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MAX_COLUMNS = 3
"""The widest kernel that oneDNN's depthwise routine for kernel gradients takes."""


@dataclass(frozen=True)
class Axis:
    """The geometry of a convolution along rows or along columns.

    Attributes
    ----------
    size, out
        Pixels of input and output.
    kernel, stride
        In pixels.
    before, after
        Zeros at either end; ``before <= after``.
    """

    size: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def out(self) -> int:
        return (self.size + self.before + self.after - self.kernel) // self.stride + 1

    @property
    def leading(self) -> int:
        """Zeros in front of the kernel that make a padding of ``after`` at both ends right."""
        return self.after - self.before


@dataclass(frozen=True)
class Phase:
    """Every ``stride``-th pixel of the input along one axis, and what its gradient is made of.

    Input pixel ``y`` meets tap ``i`` in output ``o`` where ``o * stride + i == y + before``. All
    pixels with the same ``(y + before) % stride`` therefore meet the same taps, and consecutive
    ones of them consecutive outputs: a convolution with a stride of one.

    Attributes
    ----------
    pixels, taps
        Of the input and of the kernel.
    padding, start
        Of the convolution of the output's gradient, and where in its result the pixels begin.
    """

    pixels: slice
    taps: slice
    padding: int
    start: int
    length: int


def phases(axis: Axis) -> list[Phase]:
    """The phases of one axis; pixels that are in none of them have no gradient."""
    found = []
    for offset in range(axis.stride):
        taps = len(range(offset, axis.kernel, axis.stride))
        first = max(0, math.ceil((axis.before - offset) / axis.stride))
        last = min((axis.size - 1 + axis.before - offset) // axis.stride, axis.out + taps - 2)
        if taps == 0 or last < first:
            continue
        padding, start = taps - 1 - first, 0
        if padding < 0 or first + axis.out + 2 * padding - taps < last:
            padding, start = taps - 1, first
        pixel = first * axis.stride + offset - axis.before
        length = last - first + 1
        pixels = slice(pixel, pixel + (length - 1) * axis.stride + 1, axis.stride)
        found.append(Phase(pixels, slice(offset, None, axis.stride), padding, start, length))
    return found


def convolve(
    image: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis
) -> Tensor:
    """Forward pass, in PyTorch's operators: (B, C, H, W) and (C, 1, k, k) -> (B, C, h, w)."""
    weight = _grown(weight, rows, columns)
    stride, padding = (rows.stride, columns.stride), (rows.after, columns.after)
    return F.conv2d(image, weight, bias, stride, padding, groups=weight.shape[0])


def _grown(weight: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """With the leading zeros that let both ends of an axis be padded alike."""
    if rows.leading or columns.leading:
        return F.pad(weight, (columns.leading, 0, rows.leading, 0))
    return weight


def image_gradient(grad: Tensor, weight: Tensor, like: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Gradient with respect to the input: (B, C, h, w) -> (B, C, H, W)."""
    if like.dtype == torch.float32 and (rows.stride, columns.stride) != (1, 1):
        # Here oneDNN's own routine is a good one, and spares the phases' copies.
        stride, padding = [rows.stride, columns.stride], [rows.after, columns.after]
        grown = _grown(weight, rows, columns)
        return _native(grad, like, grown, stride, padding, of_image=True)
    parts: list[tuple[Phase, Phase, Tensor]] = []
    for row in phases(rows):
        for column in phases(columns):
            taps = weight[:, :, row.taps, column.taps].flip(2, 3)
            margins = (row.padding, column.padding)
            part = F.conv2d(grad, taps, None, 1, margins, groups=len(weight))
            part = part.narrow(2, row.start, row.length).narrow(3, column.start, column.length)
            parts.append((row, column, part))
    if len(parts) == 1 and parts[0][2].shape == like.shape:
        return parts[0][2]
    covered = sum(part.shape[2] * part.shape[3] for _, _, part in parts)
    whole = covered == rows.size * columns.size
    result = torch.empty_like(like) if whole else torch.zeros_like(like)
    for row, column, part in parts:
        result[:, :, row.pixels, column.pixels] = part
    return result


def weight_gradient(
    grad: Tensor, image: Tensor, weight: Tensor, rows: Axis, columns: Axis
) -> Tensor:
    """Gradient with respect to the kernel: (C, 1, k, k)."""
    parts = []
    stride = [rows.stride, columns.stride]
    for column in range(0, columns.kernel, MAX_COLUMNS):
        width = min(MAX_COLUMNS, columns.kernel - column)
        piece = weight[..., column : column + width]
        padded, padding = image, [rows.after, columns.after]
        if rows.leading or columns.leading or width < columns.kernel:
            # What these columns of the kernel see, cropped where the numbers are negative.
            left = columns.before - column
            right = (columns.out - 1) * columns.stride + width - left - columns.size
            if rows.leading:
                sides, padding = (left, right, rows.before, rows.after), [0, 0]
            else:
                sides, padding = (left, right, 0, 0), [rows.after, 0]
            padded = F.pad(image, sides)
        parts.append(_native(grad, padded, piece, stride, padding, of_image=False))
    return torch.cat(parts, 3) if len(parts) > 1 else parts[0]


def _native(
    grad: Tensor,
    image: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    *,
    of_image: bool,
) -> Tensor:
    """PyTorch's own gradient with respect to the image, or else to the weight."""
    wanted = [of_image, not of_image, False]
    groups = weight.shape[0]
    gradients = torch.ops.aten.convolution_backward(
        grad, image, weight, None, stride, padding, [1, 1], False, [0, 0], groups, wanted
    )
    chosen: Tensor = gradients[0 if of_image else 1]
    return chosen


class _Depthwise(torch.autograd.Function):
    """:func:`convolve` with the gradients above; differentiable once."""

    @staticmethod
    def forward(
        image: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis
    ) -> Tensor:
        return convolve(image, weight, bias, rows, columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        image, weight, _, ctx.rows, ctx.columns = inputs
        ctx.save_for_backward(image, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        axes = ctx.rows, ctx.columns
        if image.is_contiguous(memory_format=torch.channels_last):
            grad = grad.contiguous(memory_format=torch.channels_last)
        of_image, of_weight, of_bias = ctx.needs_input_grad[:3]
        with torch.autocast("cpu", enabled=False):  # the types are those of the forward pass
            return (
                image_gradient(grad, weight, image, *axes) if of_image else None,
                weight_gradient(grad, image, weight, *axes) if of_weight else None,
                grad.sum((0, 2, 3)) if of_bias else None,
                None,
                None,
            )


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution in place of another, whose parameters it shares.

    On a CPU and outside of tracing and compiling it computes as this module's functions do, and
    else as the convolution it stands for.

    Parameters
    ----------
    stands_for
        Depthwise, without dilation; timm's ``Conv2dSame`` pads as TensorFlow's "same".
    """

    def __init__(self, stands_for: nn.Conv2d) -> None:
        super().__init__(
            stands_for.in_channels,
            stands_for.out_channels,
            (stands_for.kernel_size[0], stands_for.kernel_size[1]),
            (stands_for.stride[0], stands_for.stride[1]),
            (int(stands_for.padding[0]), int(stands_for.padding[1])),
            groups=stands_for.groups,
            bias=stands_for.bias is not None,
            device="meta",
        )
        self.weight = stands_for.weight
        self.bias = stands_for.bias
        self.same = isinstance(stands_for, Conv2dSame)
        self.train(stands_for.training)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        if not _takes(input):
            if self.same:
                input = pad_same(input, list(self.kernel_size), list(self.stride))
            return super().forward(input)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        weight = self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        arguments = input.to(dtype), weight, bias, self._axis(input, 0), self._axis(input, 1)
        if not torch.is_grad_enabled():
            return convolve(*arguments)
        output: Tensor = _Depthwise.apply(*arguments)
        return output

    def _axis(self, image: Tensor, dimension: int) -> Axis:
        size, kernel = image.shape[2 + dimension], self.kernel_size[dimension]
        stride, padding = self.stride[dimension], int(self.padding[dimension])
        if not self.same:
            return Axis(size, kernel, stride, padding, padding)
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return Axis(size, kernel, stride, total // 2, total - total // 2)


def use_fast_depthwise(network: nn.Module) -> None:
    """Put :class:`DepthwiseConv2d` where the network has depthwise convolutions.

    Parameters, their names and the results (up to rounding) stay as they are.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if _is_depthwise(child):
                setattr(parent, name, DepthwiseConv2d(child))


def _is_depthwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) in (nn.Conv2d, Conv2dSame)  # not their subclasses, which may do more
        and isinstance(module, nn.Conv2d)
        and 1 < module.groups == module.in_channels == module.out_channels
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _takes(image: Tensor) -> bool:
    """Whether the functions of this module are for this input, here and now."""
    return (
        image.device.type == "cpu"
        and image.dtype in (torch.float32, torch.bfloat16)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    )
