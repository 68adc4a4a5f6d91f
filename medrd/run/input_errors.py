"""Turn the error of one input into its outcome, so that the other inputs are still processed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from medrd.errors import InputError, TooLargeError

Result = TypeVar("Result")


def catch_input_error(file: Path, work: Callable[[], Result]) -> Result | InputError:
    """Return the result of ``work``, or the input error that it raised.

    Insufficient memory becomes an input error too (:class:`TooLargeError`), since the next input
    may be smaller. Errors are kept until the end of a call, so their tracebacks are removed, which
    would keep the scan in memory.
    """
    try:
        return work()
    except InputError as error:
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return error
    except (MemoryError, RuntimeError) as error:
        if not _is_memory_error(error):
            raise
        found = (str(error) or type(error).__name__).splitlines()[0]
    # The traceback is gone here, so its memory can be given to others on this GPU.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return TooLargeError(
        file,
        expected="an input for which there is enough memory",
        found=found,
        remedy="Use a machine with more memory (or --device cpu instead of a GPU), or fewer "
        "processes at a time (with Ray, fewer --actors).",
    )


def _is_memory_error(error: Exception) -> bool:
    """True for memory errors of Python, numpy, GPUs, and torch on CPUs (a RuntimeError)."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error)
    )
