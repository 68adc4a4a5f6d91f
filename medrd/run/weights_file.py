"""Files of weights from elsewhere: tensors by name, read without running code from the file.

The format is recognised by the content, because names vary (.pth, .pt, .bin, .ckpt, .SAFETENSORS).
A file may hold the state dict itself or a training checkpoint that contains it.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from medrd.errors import MissingInputError, ModelError
from medrd.files import describe_start, open_regular

# Prefixes that wrappers add to the names of a network's tensors: DataParallel and DDP,
# torch.compile, FSDP and activation checkpointing.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
# Keys under which checkpoints keep the network's weights, in order of preference.
_HOLDERS = ("", "state_dict", "model", "model_state_dict", "state_dict.model")
_DEEPEST = 4
_START_BYTES = 64
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_CLASS = re.compile(r"(?:Unsupported (?:global|class)[^:]*: )?GLOBAL (\S+)")
_DOWNLOAD_AGAIN = "Download or copy the file again."
_SAVE_AGAIN = (
    "Load it where it was made, and save only its state_dict() "
    "(torch.save(network.state_dict(), PATH), best as .safetensors)."
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, by name.

    Tensors in nested mappings have names with dots: ``{"model": {"conv1.weight": …}}`` gives
    ``model.conv1.weight``. The names of wrappers (``module``, ``_orig_mod``) are left out.

    Raises
    ------
    ModelError
        The file is missing or damaged, is not a weights file, or holds code.
    """
    try:
        with open_regular(path, kind="weights file") as file:
            start = file.read(_START_BYTES)
    except MissingInputError as error:
        raise _refused(path, error.found, error.remedy) from None
    if not start:
        raise _refused(path, "an empty file", _DOWNLOAD_AGAIN)
    if start[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        loaded = _read_safetensors(path)
    elif start.startswith((_ZIP, _PICKLE)):
        loaded = read_torch_file(path)
    else:
        raise _refused(path, describe_start(start), _DOWNLOAD_AGAIN)
    state: dict[str, Tensor] = {}
    if isinstance(loaded, Mapping):
        for name, tensor in _tensors(loaded, ()):
            state.setdefault(name, tensor)
    if not state:
        raise _refused(
            path,
            f"a {type(loaded).__name__} that is not a state dict: no tensors by name",
            _SAVE_AGAIN,
        )
    return state


def read_torch_file(path: Path) -> Any:
    """Read a file by ``torch.save`` that holds only tensors and plain types.

    Raises
    ------
    ModelError
        The file is damaged, or holds code; see :func:`read_state`.
    """
    try:
        # Options of a training script, which many published checkpoints contain; they only hold
        # attributes.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript, which is refused below
            with path.open("rb") as file:  # given a path, PyTorch would go by its ending
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load may raise anything on damaged or unsafe files
        _raise_refused(path, error)


def part_for(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network, under its own names, from a file that may contain more.

    BatchNorm's counters, which old files lack and prediction does not use, are filled in. Raises
    ValueError as :func:`place_in`.
    """
    place = place_in(state, wanted)
    found = {name: state[place + name] for name in wanted if place + name in state}
    return {name: value for name, value in wanted.items() if _is_counter(name)} | found


def place_in(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The prefix of a network's tensors in a file that may contain more.

    A prefix (``model.``, ``backbone.``) counts as the network's place in the file if all of the
    network's tensors are found below it. If they are in several places, the usual names of a
    checkpoint come first. Without a complete place, that with the most tensors is returned, so
    that a message can name what is missing.

    Raises
    ------
    ValueError
        There are several complete places, and no usual one among them.
    """
    needed = [name for name in wanted if not _is_counter(name)]
    first = needed[0]
    prefixes = [
        name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")
    ]
    complete = [
        prefix
        for prefix in prefixes
        if all(
            prefix + name in state and state[prefix + name].shape == wanted[name].shape
            for name in needed
        )
    ]
    usual = [f"{holder}." if holder else "" for holder in _HOLDERS]
    chosen = next((prefix for prefix in usual if prefix in complete), None)
    if chosen is None:
        if len(complete) > 1:
            raise ValueError(f"this network in {len(complete)} places: {', '.join(complete)}")
        others = complete or sorted(
            {*prefixes, "", *usual}, key=lambda p: -sum(p + name in state for name in needed)
        )
        chosen = others[0]
    return chosen


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load a .safetensors file. Raises OSError or SafetensorError."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:  # safetensors opens only paths that are text
        return load(path.read_bytes())
    return load_file(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise _refused(path, f"a damaged file ({error})", _DOWNLOAD_AGAIN) from None


def _tensors(content: Mapping[Any, Any], above: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        parts = [part for part in str(key).split(".") if part not in _WRAPPERS]
        if isinstance(value, Tensor):
            yield ".".join((*above, *parts)), value
        elif isinstance(value, Mapping) and len(above) < _DEEPEST:
            yield from _tensors(value, (*above, *parts))


def _raise_refused(path: Path, error: Exception) -> NoReturn:
    """PyTorch's own message is not shown, because it advises loading the file with its code."""
    text = str(error)
    held = _CLASS.search(text)
    if "TorchScript" in text:
        raise _refused(path, "a TorchScript program", _SAVE_AGAIN) from None
    if held:
        found = f"an object of class {held.group(1)}, which only its code can load"
        raise _refused(path, found, _SAVE_AGAIN) from None
    raise _refused(path, f"a damaged file ({type(error).__name__})", _DOWNLOAD_AGAIN) from None


def _refused(path: Path, found: str, remedy: str) -> ModelError:
    return ModelError(
        path,
        expected="tensors by name, loadable without running code (.safetensors, .pth)",
        found=found,
        remedy=remedy,
    )
