"""Builds a detector from its section of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medrd.models.detector import Detector
from medrd.models.detectors import detector_class

# Keys of a model's config that are for the simulation, not for the network.
_NOT_THE_NETWORKS: Final = ("simulation", "noise")


def build_detector(
    model: Mapping[str, Any], *, modalities: int, channels: int, median: float
) -> Detector:
    """Build a detector with random weights.

    Parameters
    ----------
    model
        The ``model`` section of a config, as plain types.
    modalities, channels, median
        Numbers of modalities and channels in the images, and a brain's median intensity, for
        detectors that take any number.

    Raises
    ------
    ValueError
        The detector is unknown, or the teacher unusable.
    """
    settings = {key: value for key, value in model.items() if key not in _NOT_THE_NETWORKS}
    name, teacher = settings.pop("name"), settings.pop("teacher", None)
    kind = detector_class(name)
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if kind.section.takes_stacks:
        settings |= {"modalities": modalities, "channels": channels, "median": median}
    if kind.teacher_kind is None:
        return kind(**settings)
    return kind(kind.teacher_kind(teacher["name"]), **settings)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within this context, detectors are built on PyTorch's meta device: with shapes but without
    values.

    Weights are not initialised either, which would take most of the time on that device.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
