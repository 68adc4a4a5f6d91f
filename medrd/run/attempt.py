"""One input at a time: what comes of it, or why it fails alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from medrd.errors import InputError, TooLargeError

Result = TypeVar("Result")


def attempt(file: Path, work: Callable[[], Result]) -> Result | InputError:
    """What ``work`` makes of an input, or the input error that it raised.

    Memory that does not suffice is the input's fault too (:class:`TooLargeError`): the next one
    may be smaller. Errors are kept to the end of a call, so they come without their tracebacks,
    which hold the frames that they were raised in, and those the scan.
    """
    try:
        return work()
    except InputError as error:
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return error
    except (MemoryError, RuntimeError) as error:
        if not _wants_memory(error):
            raise
        found = (str(error) or type(error).__name__).splitlines()[0]
    # Here nothing holds the frames any more: what they held can be given to others on this GPU.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return TooLargeError(
        file,
        expected="an input that the memory suffices for",
        found=found,
        remedy="Run it where there is more memory (another machine; for a GPU's, --device cpu), or "
        "with fewer processes beside it (with Ray, fewer --actors).",
    )


def _wants_memory(error: Exception) -> bool:
    """Of Python, numpy, a GPU, or torch on a CPU, to which it is a mere RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error)
    )
