"""Two operations as one GPU kernel each. Needs Triton, which PyTorch for CUDA brings along.

Without Triton the module can be imported but its functions cannot be called: see `fused`, its only user.
"""

# No postponed annotations: Triton reads them.

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 1024


if triton is not None:

    @triton.jit
    def _rotate(
        x_ptr, out_ptr, cos_ptr, sin_ptr, batch, tokens, stride_s, stride_b, stride_n,
        ROW: tl.constexpr, D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ):  # fmt: skip
        """One token of one image: all its heads, ROW = heads * D values that lie side by side."""
        row = tl.program_id(0).to(tl.int64)
        n = row % tokens
        b = (row // tokens) % batch
        s = row // (tokens * batch)
        start = x_ptr + s * stride_s + b * stride_b + n * stride_n
        e = tl.arange(0, BLOCK_SIZE)
        inside = e < ROW
        d = e % D
        half = (d // (D // 4)) % 2
        partner = tl.where(half == 0, e + D // 4, e - D // 4)
        x = tl.load(start + e, mask=inside, other=0.0).to(tl.float32)
        other = tl.load(start + partner, mask=inside, other=0.0).to(tl.float32)
        cos = tl.load(cos_ptr + n * D + d, mask=inside, other=0.0).to(tl.float32)
        turn = (d // (D // 2)) * (D // 4) + d % (D // 4)
        sin = tl.load(sin_ptr + n * (D // 2) + turn, mask=inside, other=0.0).to(tl.float32)
        value = x * cos + tl.where(half == 0, -other, other) * sin
        tl.store(out_ptr + row * ROW + e, value.to(out_ptr.dtype.element_ty), mask=inside)

    @triton.jit
    def _double(
        x_ptr, out_ptr, height, width, scale_y, scale_x, C: tl.constexpr, BLOCK_SIZE: tl.constexpr
    ):  # fmt: skip
        """A part of one row of the answer, whose 2 * width pixels of C channels lie side by side."""
        row = tl.program_id(0)
        y, image = row % (2 * height), (row // (2 * height)).to(tl.int64)
        e = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        inside = e < 2 * width * C
        x, c = e // C, e % C
        exact_y = y.to(tl.float32) * scale_y
        exact_x = x.to(tl.float32) * scale_x
        y0 = tl.minimum(exact_y.to(tl.int32), height - 1)
        x0 = tl.minimum(exact_x.to(tl.int32), width - 1)
        part_y, part_x = exact_y - y0.to(tl.float32), exact_x - x0.to(tl.float32)
        y1, x1 = tl.minimum(y0 + 1, height - 1), tl.minimum(x0 + 1, width - 1)
        start = x_ptr + image * height * width * C + c
        v00 = tl.load(start + (y0 * width + x0) * C, mask=inside, other=0.0).to(tl.float32)
        v01 = tl.load(start + (y0 * width + x1) * C, mask=inside, other=0.0).to(tl.float32)
        v10 = tl.load(start + (y1 * width + x0) * C, mask=inside, other=0.0).to(tl.float32)
        v11 = tl.load(start + (y1 * width + x1) * C, mask=inside, other=0.0).to(tl.float32)
        upper = (1.0 - part_x) * v00 + part_x * v01
        lower = (1.0 - part_x) * v10 + part_x * v11
        value = (1.0 - part_y) * upper + part_y * lower
        tl.store(out_ptr + row.to(tl.int64) * 2 * width * C + e, value.to(out_ptr.dtype.element_ty), mask=inside)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As RotaryTable.rotate. x: (..., B, heads, N, D) of which the heads of a token lie side by side."""
    views = x.view(1, *x.shape) if x.ndim == 4 else x  # (S, B, heads, N, D)
    count, batch, heads, tokens, width = views.shape
    out = torch.empty(count, batch, tokens, heads, width, dtype=x.dtype, device=x.device)
    row = heads * width
    strides = views.stride(0), views.stride(1), views.stride(3)
    _rotate[(count * batch * tokens,)](
        x, out, cos, sin, batch, tokens, *strides, ROW=row, D=width, BLOCK_SIZE=triton.next_power_of_2(row)
    )
    return out.transpose(2, 3).view_as(views)[0] if x.ndim == 4 else out.transpose(2, 3)


def double(x: Tensor) -> Tensor:
    """Bilinear, corners aligned: (B, C, H, W) in channels-last order -> (B, C, 2 H, 2 W) in the same order."""
    images, channels, height, width = x.shape
    out = torch.empty(images, channels, 2 * height, 2 * width, dtype=x.dtype, device=x.device,
                      memory_format=torch.channels_last)  # fmt: skip
    scale_y, scale_x = (height - 1) / (2 * height - 1), (width - 1) / (2 * width - 1)
    grid = (images * 2 * height, triton.cdiv(2 * width * channels, BLOCK))
    _double[grid](x, out, height, width, scale_y, scale_x, C=channels, BLOCK_SIZE=BLOCK)
    return out
