"""Device and precision of a network."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medrd.errors import ConfigError

logger = logging.getLogger("medrd.device")

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Execution:
    """A device and a precision.

    bfloat16 runs under autocast with channels_last: convolutions use it, while weights, BatchNorm
    statistics, cosines and maps stay float32.
    """

    device: torch.device
    bf16: bool

    @property
    def precision(self) -> str:
        """The precision, as named in the config."""
        return "bf16" if self.bf16 else "fp32"

    def place(self, network: Network) -> Network:
        """Move a network to the device, in its fastest memory format."""
        network.to(self.device)
        if self.bf16:
            network.to(memory_format=torch.channels_last)
        return network

    def images(self, images: NDArray[np.float32]) -> Tensor:
        """Move images (B, C, H, W) with one or three channels to the device, as (B, 3, H, W)."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)
        if tensor.shape[1] == 1:
            tensor = tensor.expand(-1, 3, -1, -1)
        if self.bf16:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor.contiguous()

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context for every forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


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
        torch.zeros(1, device=chosen).item()  # meta and others cannot compute
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
        # AMX multiplies bfloat16 tiles; AVX-512-BF16 alone gains little or nothing.
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        return bool(has_amx())
    return False
