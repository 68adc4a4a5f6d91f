"""Builds a detector from its section of a config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medrd.models.detector import Detector
from medrd.models.detectors import detector_class
from medrd.models.settings import ModelSection


def build_detector(
    settings: ModelSection, *, modalities: int, channels: int, median: float
) -> Detector:
    """Build a detector with random weights.

    Parameters
    ----------
    settings
        The ``model`` section of a config.
    modalities, channels, median
        Number of modalities and of channels in the images, and a brain's median intensity, for
        detectors that take any number.

    Raises
    ------
    ValueError
        The teacher is unusable.
    """
    kind: Any = detector_class(settings.name)
    teacher = []
    if kind.teacher_kind is not None:
        teacher = [kind.teacher_kind(settings.teacher.name)]  # type: ignore[attr-defined]
    stack = {"modalities": modalities, "channels": channels, "median": median}
    detector: Detector = kind(*teacher, settings, **(stack if settings.takes_stacks else {}))
    return detector


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
