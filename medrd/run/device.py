"""Device and precision of a network."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medrd.errors import ConfigError

logger = logging.getLogger("medrd.device")

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Execution:
    """A device and a precision.

    bfloat16 runs under autocast with channels_last: convolutions use it, while weights, BatchNorm
    statistics, cosines and maps stay float32.

    Attributes
    ----------
    channels_last
        The memory format in float32; bfloat16 always has it.
    float32_depthwise
        Whether trained depthwise convolutions are computed in float32 under bfloat16 too.
    """

    device: torch.device
    bf16: bool
    channels_last: bool = False
    float32_depthwise: bool = False

    @property
    def precision(self) -> str:
        """The precision, as named in the config."""
        return "bf16" if self.bf16 else "fp32"

    def for_training(self, network: nn.Module) -> Execution:
        """The same, as the network trains faster on a CPU.

        In float32, depthwise convolutions and the layers around them are faster with channels
        last; ResNets are not. In bfloat16, the gradients of a depthwise convolution take several
        times as long as in float32.
        """
        depthwise = self.device.type == "cpu" and _has_depthwise(network)
        return replace(self, channels_last=depthwise, float32_depthwise=self.bf16 and depthwise)

    def place(self, network: Network) -> Network:
        """Move a network to the device, in this memory format."""
        network.to(self.device)
        network.to(memory_format=self._format)
        return network

    def images(self, images: NDArray[np.float32]) -> Tensor:
        """Move images (B, C, H, W) to the device, with one channel as (B, 3, H, W)."""
        return self.laid_out(self.moved(images))

    def moved(self, images: NDArray[np.float32]) -> Tensor:
        """The same with each channel's pixels contiguous."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)
        if tensor.shape[1] == 1:
            tensor = tensor.expand(-1, 3, -1, -1)
        return tensor.contiguous()

    def laid_out(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in this memory format."""
        return images.contiguous(memory_format=self._format)

    @property
    def _format(self) -> torch.memory_format:
        last = self.bf16 or self.channels_last
        return torch.channels_last if last else torch.contiguous_format

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The autocast context for every forward pass."""
        with ExitStack() as stack:
            stack.enter_context(
                torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)
            )
            if self.float32_depthwise:
                stack.enter_context(_DepthwiseInFloat32())
            yield


class _DepthwiseInFloat32(TorchFunctionMode):
    """Computes trained depthwise convolutions in float32 under autocast on a CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # nn.Conv2d passes image, weight, bias, stride, padding, dilation and groups by position.
        if func is torch.conv2d and len(args) == 7:
            image, weight, *_, groups = args
            if groups == image.shape[1] > 1 and weight.requires_grad and torch.is_grad_enabled():
                with torch.autocast("cpu", enabled=False):
                    return func(image.float(), *args[1:]).to(torch.bfloat16)
        return func(*args, **kwargs)


def choose_execution(
    device: str = "auto", precision: Literal["auto", "fp32", "bf16"] = "auto"
) -> Execution:
    """Resolve ``auto``: a GPU if there is one, bfloat16 if it is fast on the device.

    Raises
    ------
    ConfigError
        The device is unknown or not available.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # meta and some others cannot compute
    except (RuntimeError, AssertionError) as error:
        why = "" if "device string" in str(error) else f" ({str(error).splitlines()[0]})"
        raise ConfigError(
            "device",
            expected="auto, cpu, cuda or cuda:N of an available GPU",
            found=f"{device}{why}",
            remedy="Use auto, in --device or in train.device.",
        ) from None
    bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16(chosen))
    execution = Execution(chosen, bf16)
    logger.debug("computing on %s in %s", chosen, execution.precision)
    return execution


def _computes_bf16(device: torch.device) -> bool:
    """True if bfloat16 is faster than float32 on the device, not only supported."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        # AMX multiplies tiles of bfloat16. With AVX-512-BF16 alone, AMD's Zen 4 is twice as fast in
        # bfloat16, while other processors gain little or nothing.
        if _has("_is_amx_tile_supported") and _may_use("AMX"):
            return True
        return (
            _has("_is_avx512_bf16_supported")
            and _may_use("AMX", "BF16", "FP16", "AVX10")
            and bf16_ratio() > _WORTHWHILE
        )
    return False


_WORTHWHILE = 1.5
"""Times as fast as float32; what is measured is about 1 or about 2."""


@cache
def bf16_ratio() -> float:
    """How many times as fast a convolution is in bfloat16 as in float32, on one core.

    Equal calls have to choose the same precision, so the shortest of several times counts, which
    other processes hardly change.
    """
    images = torch.ones(4, 64, 32, 32).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [
            [
                _seconds(images.to(dtype), weight.to(dtype))
                for dtype in (torch.float, torch.bfloat16)
            ]
            for _ in range(6)
        ]
    finally:
        torch.set_num_threads(threads)
    single, half = (min(each) for each in zip(*times, strict=True))
    return single / half


def _seconds(images: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()  # Windows counts a thread's own time in steps of 16 ms
    with torch.inference_mode():
        nn.functional.conv2d(images, weight, padding=1)
    return time.perf_counter() - start


def _has(feature: str) -> bool:
    """Whether torch finds that the CPU has a feature; names differ between versions of torch."""
    return bool(getattr(torch.cpu, feature, lambda: False)())


def _may_use(*instructions: str) -> bool:
    """False if oneDNN is limited to older instructions: bfloat16 then takes up to a hundred times
    as long as float32."""
    held = (os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
    isa = next((each.upper() for each in held if each), "ALL")
    return isa in ("ALL", "DEFAULT") or any(each in isa for each in instructions)


def _has_depthwise(network: nn.Module) -> bool:
    convolutions = (each for each in network.modules() if isinstance(each, nn.Conv2d))
    return any(each.groups > 1 and each.groups == each.in_channels for each in convolutions)
