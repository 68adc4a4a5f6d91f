"""What a process of Ray's does before it takes inputs, and what is said of one that it died of."""

from __future__ import annotations

from pathlib import Path

import torch

from medrd.errors import InputError, ModelError
from medrd.workflows.cluster import EVERYWHERE, enter
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.pool_round import LostItem


def model_in_actor(path: Path, wanted: str, folder: Path, threads: int) -> Model:
    """The caller's model, with paths meaning what they mean to the caller.

    Parameters
    ----------
    path, wanted
        Of the model, and its hash.
    folder
        That the caller works in.

    Raises
    ------
    ConfigError
        The folder is not there on this node.
    ModelError
        The model is another there, or none.
    """
    enter(folder)
    torch.set_num_threads(threads)
    model = load_model(path)
    if model.hash != wanted:
        raise ModelError(
            path,
            expected=f"the model {wanted[:12]} on every node",
            found=f"the model {model.hash[:12]} on one",
            remedy=EVERYWHERE,
        )
    return model


def lost_input(file: Path, lost: LostItem, *, limit: str) -> InputError:
    """What is said of an input that was given up; ``limit`` is what bounds an input's size."""
    return InputError(
        file,
        expected="an input that a process gets through",
        found=f"{lost.attempts} that did not, the last one by {lost.reason}",
        remedy=f"It may be too large for the memory that a process has: lower {limit}, or "
        "begin fewer processes with --actors. What was raised, if anything, stands in the log.",
    )
