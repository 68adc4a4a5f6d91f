"""On what, and in which numbers, a network runs."""

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

    bfloat16 runs under autocast with channels_last: convolutions take it, while weights,
    BatchNorm statistics, cosines and maps stay float32.
    """

    device: torch.device
    bf16: bool

    @property
    def precision(self) -> str:
        """As in the config."""
        return "bf16" if self.bf16 else "fp32"

    def place(self, network: Network) -> Network:
        """Move a network there, in the memory format that is fast there."""
        network.to(self.device)
        if self.bf16:
            network.to(memory_format=torch.channels_last)
        return network

    def images(self, images: NDArray[np.float32]) -> Tensor:
        """(B, C, H, W) with one or three channels -> (B, 3, H, W) there."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)
        if tensor.shape[1] == 1:
            tensor = tensor.expand(-1, 3, -1, -1)
        if self.bf16:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor.contiguous()

    def autocast(self) -> AbstractContextManager[object]:
        """Around every forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def choose_execution(
    device: str = "auto", precision: Literal["auto", "fp32", "bf16"] = "auto"
) -> Execution:
    """Resolve ``auto``: a GPU where there is one, bfloat16 where the device computes in it.

    Raises
    ------
    ConfigError
        A device that is unknown or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "train.device",
            expected="auto, cpu, cuda or cuda:N of a GPU that is there",
            found=f"{device} ({str(error).splitlines()[0]})",
            remedy="Use auto.",
        ) from None
    bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16(chosen))
    execution = Execution(chosen, bf16)
    logger.debug("computing on %s in %s", chosen, execution.precision)
    return execution


def _computes_bf16(device: torch.device) -> bool:
    """True where bfloat16 is faster than float32, not merely possible."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        # AMX multiplies bfloat16 tiles; AVX-512-BF16 alone gains little or nothing.
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        return bool(has_amx())
    return False
