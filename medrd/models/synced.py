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
    values = images.to(torch.promote_types(images.dtype, torch.float32))
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    count = mean.new_full((1,), values.numel() / len(mean))
    # Everyone's in a row of their own: a sum of squares would lose small variances.
    rows = mean.new_zeros(dist.get_world_size(), 1)
    rows[dist.get_rank()] = 1
    rows = _SumOverProcesses.apply(rows * torch.cat([count, mean, variance]))
    counts, means, variances = rows.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    _remember(norm, mean.detach(), variance.detach() * (total / (total - 1)))
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    normed = values * scale[:, None, None] + shift[:, None, None]
    return normed.to(images.dtype)


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
