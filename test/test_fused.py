"""Kernels of our own: what guards them, on a CPU; what they compute, where Triton is there to interpret them."""

import logging
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from helpers_dust3r import one_thread  # noqa: F401

from easi3r_ros.core.dust3r import fused, triton_kernels
from easi3r_ros.core.dust3r.fused import Fused

INTERPRETED = """
import torch
from easi3r_ros.core.dust3r import fused, triton_kernels
from easi3r_ros.core.dust3r.network import rotary_table
torch.set_num_threads(1)
for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2**-6)):
    near = lambda x, y: torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
    table = rotary_table((2, 3), 16, 100.0, dtype=dtype)
    packed = torch.randn(2, 6, 3, 3, 16).to(dtype).permute(2, 0, 3, 1, 4)[:2]
    single = torch.randn(2, 6, 3, 16).to(dtype).transpose(1, 2)
    for x in (packed, single):
        near(triton_kernels.rotate(x, table.cos, table.sin), fused._rotate(x, table.cos, table.sin))
    for shape in ((2, 32, 3, 5), (1, 128, 9, 7), (1, 256, 1, 4)):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
        answer = triton_kernels.double(x)
        assert answer.is_contiguous(memory_format=torch.channels_last)
        near(answer, fused._double(x))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compute_what_pytorch_does(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when a kernel is made: in a process of its own
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def kernel(monkeypatch):
    """Puts a function in the place of the kernel of `double`, and lets a CPU's tensors go there."""

    def put(function, capturing=False):
        monkeypatch.setattr(triton_kernels, "triton", object())
        monkeypatch.setattr(triton_kernels, "double", function)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        monkeypatch.setattr(Fused, "_suits", staticmethod(lambda x: True))
        return Fused("double", fused._double)

    return put


def counted(function):
    def call(x):
        call.count += 1
        return function(x)

    call.count = 0
    return call


X = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
EXPECTED = fused._double(X)


def test_a_kernel_that_agrees_is_used_from_then_on(kernel, caplog):
    calls = counted(fused._double)
    double = kernel(calls)
    double._plain = counted(fused._double)
    assert all(torch.equal(double(X), EXPECTED) for _ in range(3))
    assert (calls.count, double._plain.count) == (3, 1) and not caplog.records
    double(X.bfloat16())
    assert double._plain.count == 2  # another precision is another kernel


@pytest.mark.parametrize(
    "function", [lambda x: 1.01 * fused._double(x), lambda x: fused._double(x) * torch.nan, lambda x: 1 / 0]
)
def test_a_kernel_that_fails_or_differs_is_told_of_once_and_left(kernel, caplog, function):
    calls = counted(function)
    double = kernel(calls)
    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(double(X), EXPECTED) for _ in range(3))
    assert calls.count == 1
    (record,) = caplog.records
    assert "the GPU kernel 'double' is not used" in record.getMessage()


def test_nothing_is_compared_while_a_graph_is_recorded(kernel):
    calls = counted(fused._double)
    assert torch.equal(kernel(calls, capturing=True)(X), EXPECTED)
    assert calls.count == 0


def test_without_triton_there_is_a_sentence(kernel, monkeypatch, caplog):
    double = kernel(fused._double)
    monkeypatch.setattr(triton_kernels, "triton", None)
    assert torch.equal(double(X), EXPECTED) and "Triton is not installed" in caplog.text


def test_a_cpu_and_gradients_take_the_ordinary_way():
    assert not Fused._suits(X)
    assert torch.equal(fused.double(X), EXPECTED)
