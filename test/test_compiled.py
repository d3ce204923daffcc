"""torch.compile as an option: what cannot be compiled runs as it is, and it is said once."""

import logging

import pytest
import torch
from helpers_dust3r import noise_images, one_thread, small_backbone  # noqa: F401

from easi3r_ros.core.compiled import CompiledCalls


def doubled(x):
    return 2 * x


def test_each_function_is_compiled_once():
    compiled = []
    calls = CompiledCalls(True, lambda function: compiled.append(function) or function)
    for _ in range(3):
        assert torch.equal(calls.call("double", doubled, torch.ones(2)), 2 * torch.ones(2))
    assert compiled == [doubled]


def test_nothing_is_compiled_that_nobody_asked_for():
    assert torch.equal(CompiledCalls(False, None).call("double", doubled, torch.ones(2)), 2 * torch.ones(2))


def test_what_fails_runs_as_it_is_and_is_told_once(caplog):
    def broken(_):
        def fail(*_):
            raise RuntimeError("no compiler found\nmany lines")

        return fail

    calls = CompiledCalls(True, broken)
    with caplog.at_level(logging.WARNING):
        for name in ("double", "other", "double"):
            assert torch.equal(calls.call(name, doubled, torch.ones(2)), 2 * torch.ones(2))
    (message,) = [record.getMessage() for record in caplog.records]
    assert "not compiled" in message and "no compiler found" in message and "many lines" not in message


def test_wrong_arguments_and_full_memory_are_not_the_compiler_s_fault():
    calls = CompiledCalls(True, lambda function: function)
    with pytest.raises(TypeError):
        calls.call("double", doubled)
    assert calls._wanted

    def full(_):
        raise torch.cuda.OutOfMemoryError("simulated")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        calls.call("full", full, torch.ones(2))


def test_the_network_s_three_parts_go_through_it(monkeypatch):
    """With the compiler's front end alone, which needs nothing else to be installed."""
    backbone, plain = small_backbone(compile="on"), small_backbone()
    names = []
    backbone._compiled = CompiledCalls(True, lambda f: names.append(f.__name__) or torch.compile(f, backend="eager"))
    images = noise_images(2, 48, 80)
    (ours,), (reference,) = (b.decode([tuple(b.encode(x) for x in images)]) for b in (backbone, plain))
    assert names == ["encode", "decode", "regress"] and backbone._compiled._wanted
    torch.testing.assert_close(ours.points_b, reference.points_b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.evidence.attention.source, reference.evidence.attention.source)
