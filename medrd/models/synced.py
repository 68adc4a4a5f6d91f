"""BatchNorm, and losses, over a batch that several processes share.

PyTorch's own ``SyncBatchNorm`` refuses a CPU, where medrd trains too and where its tests run; this
one is the same on every device. Statistics are those of the whole batch, and so are their
gradients: N processes compute what one would.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional


def synchronise(network: nn.Module) -> None:
    """Make the BatchNorm layers of a network see all processes' parts of a batch, in train mode.

    In place: modules, parameters and the names in a state dict stay. timm's layers that bring
    their activation along keep it.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # On the instance: a layer of another class would lose what a subclass adds.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, images)
    normed = batch_norm(norm, images)
    for name in ("drop", "act"):  # of timm.layers.BatchNormAct2d
        normed = getattr(norm, name, nn.Identity())(normed)
    return normed


def batch_norm(norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    """(B, C, H, W) -> the same shape, by mean and variance over all processes' images.

    Processes may have different B. Moves the layer's running statistics.
    """
    mean, variance, count = _statistics(images)
    _remember(norm, mean, variance * (count / (count - 1)))
    normed: Tensor = _Normed.apply(images, norm.weight, norm.bias, mean, variance, count, norm.eps)
    return normed


@torch.no_grad()
def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variance (C,) and number (1,) of all processes' values of a channel."""
    # Given somewhere to keep them, it computes them in that precision, not the images'.
    precision = torch.promote_types(images.dtype, torch.float32)
    kept = images.new_zeros(2, images.shape[1], dtype=precision).unbind()
    mean, variance = torch.ops.aten.batch_norm_update_stats(images, *kept, 1.0)
    count = mean.new_full((1,), images.numel() / len(mean))
    # Everyone's in a row of their own: a sum of squares would lose small variances.
    rows = mean.new_zeros(dist.get_world_size(), 2 * len(mean) + 1)
    rows[dist.get_rank()] = torch.cat([count, mean, variance])
    dist.all_reduce(rows)
    counts, means, variances = rows.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    return mean, (counts * (variances + (means - mean).square())).sum(0) / total, total


class _Normed(torch.autograd.Function):
    """Images by statistics that depend on all processes' images, as do their gradients.

    By PyTorch's own kernels: written out, with a temporary for each operation, the same formula
    made a training on a CPU 1.7 times as slow.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(images, weight, mean, variance, count)
        ctx.eps = eps
        return functional.batch_norm(images, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance, count = ctx.saved_tensors
        # As if the statistics were constants: to the images, and the sums over this process's
        # images of gradient times normed value, and of the gradient.
        constant, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0],
            images,
            weight,
            mean,
            variance,
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        through_variance, through_mean = sums / count
        # The gradient through them is linear in the images, another one for each channel.
        scale = (variance + ctx.eps).rsqrt()
        scale_of_all = scale if weight is None else scale * weight
        slope = -scale_of_all * scale * through_variance
        level = -scale_of_all * through_mean
        one = torch.ones_like(mean)
        linear = functional.batch_norm(images, mean, one, slope, level, eps=0.0)
        return (
            constant + linear,
            of_weight if ctx.needs_input_grad[1] else None,
            of_bias if ctx.needs_input_grad[2] else None,
            *[None] * 4,
        )


def summed(values: Tensor) -> Tensor:
    """Over the processes that share a batch; as they are in a process that is alone.

    A loss made of such sums is the whole batch's in each of the processes, and its gradient there,
    averaged over them, that of the whole batch.
    """
    return _SumOverProcesses.apply(values) if _is_shared() else values


@torch.no_grad()
def mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of all processes' values, as :meth:`Tensor.mean` and :meth:`Tensor.std`; no gradient."""
    if not _is_shared():
        return values.mean(), values.std()
    count, total = summed(torch.stack([values.new_tensor(values.numel()), values.sum()]))
    mean = total / count
    return mean, (summed((values - mean).square().sum()) / (count - 1)).sqrt()


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)


class _SumOverProcesses(torch.autograd.Function):
    """A sum that everyone gets; its gradient is the sum of everyone's."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous().clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient
