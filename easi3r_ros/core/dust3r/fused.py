"""Operations that a GPU does in one kernel of our own where it can, and in PyTorch's everywhere else.

A kernel is trusted once its first answer, of each precision and width, agreed with PyTorch's. One that fails or differs
is never called again, after one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # relative


class Fused:
    """One operation, both ways."""

    def __init__(self, name: str, plain: Callable[..., Tensor]):
        """name: of the function in `triton_kernels`. plain: the same by PyTorch."""
        self._name, self._plain = name, plain
        self._trusted: set[tuple] = set()
        self._broken = False

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        if self._broken or not self._suits(x):
            return self._plain(x, *others)
        kind = (x.device, x.dtype, x.ndim, x.shape[-3], x.shape[-1])
        if kind in self._trusted:
            return self._kernel(x, *others)
        if torch.cuda.is_current_stream_capturing():  # comparing would make the host wait
            return self._plain(x, *others)
        return self._first(kind, x, *others)

    def _first(self, kind: tuple, x: Tensor, *others: Tensor) -> Tensor:
        expected = self._plain(x, *others)
        try:
            answer = self._kernel(x, *others)
            error = float((answer.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-30))
            if not error <= LARGEST_ERROR[x.dtype] or answer.shape != expected.shape:
                raise RuntimeError(f"its answer is off by {error:.1e}")
            self._trusted.add(kind)
        except Exception as error:
            self._broken = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("the GPU kernel '%s' is not used, which costs time alone (%s)", self._name, reason)
        return expected

    def _kernel(self, x: Tensor, *others: Tensor) -> Tensor:
        from easi3r_ros.core.dust3r import triton_kernels

        if triton_kernels.triton is None:
            raise ImportError("Triton is not installed")
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            return getattr(triton_kernels, self._name)(x, *others)

    @staticmethod
    def _suits(x: Tensor) -> bool:
        return x.is_cuda and x.dtype in LARGEST_ERROR and not (torch.is_grad_enabled() and x.requires_grad)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


_fused_double = Fused("double", _double)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W), bilinear with aligned corners."""
    if x.is_cuda and x.is_contiguous(memory_format=torch.channels_last):
        return _fused_double(x)
    return _double(x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(x)
    out = x * cos
    # Added in place, half by half: a copy with the halves swapped costs as much as the rest together.
    out_first, out_second = _halves(out)
    out_first.addcmul_(second, sin, value=-1)
    out_second.addcmul_(first, sin)
    return out


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Views (..., N, axis, D / 4) of the two halves of each axis of (..., N, D)."""
    halves = x.unflatten(-1, (2, 2, -1))
    return halves.select(-2, 0), halves.select(-2, 1)  # not unbind, whose views autograd lets nobody write to


_fused_rotate = Fused("rotate", _rotate)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """2D rotary embedding of (..., B, heads, N, D): see `RotaryTable`."""
    if x.is_cuda and x.ndim in (4, 5) and x.stride(-1) == 1 and x.stride(-3) == x.shape[-1]:
        return _fused_rotate(x, cos, sin)
    return _rotate(x, cos, sin)
