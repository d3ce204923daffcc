"""What to do when a device has no memory left: notice it, let go of the failed try, and say what would help."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

# How PyTorch (CPU, MPS, cuBLAS, cuDNN, the driver) and OpenCV say it where they have no class of their own for it.
_WORDS = ("out of memory", "can't allocate memory", "alloc_failed", "insufficient memory", "failed to allocate")
ADVICE = "lower preprocess.long_side, set backbone.dtype to bfloat16, or end other programs that use the same memory"


class OutOfMemory(RuntimeError):
    """A frame needs more memory than there is, whatever was tried; the message says what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says so, of whichever device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError, OutOfMemory)):
        return True
    return any(words in str(error).lower() for words in _WORDS)


def attempt(work: Callable[[], Result]) -> Result | None:
    """What `work` returns (never None); None if the memory of some device ran out.

    The exception ends here: its traceback would keep every tensor of the failed try alive, so that the next one would
    find the memory just as full.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def release_unused() -> None:
    """Give back what nobody holds any more but PyTorch keeps for later."""
    gc.collect()
    for backend in (torch.cuda, torch.backends.mps, getattr(torch, "xpu", None)):
        if backend is not None and backend.is_available():
            (torch.mps if backend is torch.backends.mps else backend).empty_cache()
