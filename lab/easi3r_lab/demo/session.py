"""The demo from beginning to end: render, start the node, play, measure, draw."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_lab.demo.client import DemoClient, NodeResult, camera_messages, connected
from easi3r_lab.demo.figures import DemoFigures, draw, evaluate
from easi3r_lab.demo.node_process import NodeProcess, running_node
from easi3r_lab.synthetic import Clip, iter_frames, stack_frames

_START_LIMIT = 90.0  # seconds until the node is active; a cold disk and a busy machine included
_RESULT_LIMIT = 20.0  # seconds from the last image until its result
_FIRST_STAMP_NS = 1_000_000_000  # a stamp of zero means "not set" in ROS


class DemoFailed(RuntimeError):
    """The demo could not be measured; the message says why."""


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_demo(
    out: Path,
    preset: str = "walkers",
    frames: int = 90,
    rate: float = 15.0,
    seed: int = 0,
    size: tuple[int, int] = (320, 240),
    node_arguments: tuple[str, ...] = (),
    say: Callable[[str], None] = _to_stderr,
) -> dict[str, Any]:
    """Plays a rendered clip into the real node in real time and measures what comes back.

    Writes contact_sheet.png, trajectory.png, top_view.png, demo.json and node.log into `out`, and returns the numbers
    that `easi3r-lab demo` prints. rate: Hz of the clip and of its play; size: (W, H); node_arguments: what follows
    --ros-args when the node is started; say: called with what happens, for a person.
    Raises DemoFailed or NodeFailed.
    """
    out.mkdir(parents=True, exist_ok=True)
    domain_id = 1 + os.getpid() % 100  # away from any robot's; DDS wants 0..101 on Linux
    with running_node(domain_id, out / "node.log", node_arguments) as node, connected(domain_id) as client:
        clip = _rendered(preset, seed, frames, size, rate, node, say)
        _wait(lambda: _is_active(client, node), _START_LIMIT, node, "the node is not active")
        say(f"playing {frames} frames at {rate:g} Hz into the node (process {node.pid}) over DDS ...")
        _play(clip, client, node)
        memory = node.peak_memory_mb()
        node.interrupt()
        results, fps = client.results(), client.frames_per_second()
    say("comparing with the truth and drawing ...")
    return _report(out, clip, results, fps, memory, say)


def _rendered(
    preset: str,
    seed: int,
    frames: int,
    size: tuple[int, int],
    rate: float,
    node: NodeProcess,
    say: Callable[[str], None],
) -> Clip:
    say(f"rendering {frames} frames of '{preset}' at {size[0]} x {size[1]}, while the node starts ...")
    rendered = []
    for frame in iter_frames(preset, seed, frames, size, rate):
        node.check()
        rendered.append(frame)
    return stack_frames(rendered, preset, seed, rate)


def _is_active(client: DemoClient, node: NodeProcess) -> bool:
    state = client.lifecycle_state()
    # The node begins to start itself before it answers, so any other state is the end of a failed start.
    if state not in ("", "configuring", "inactive", "activating", "active"):
        raise DemoFailed(f"the node did not start, it is {state}{node.log_tail()}")
    return state == "active" and client.is_connected()


def _play(clip: Clip, client: DemoClient, node: NodeProcess) -> None:
    stamps = [_FIRST_STAMP_NS + clip.stamp_ns(index) for index in range(len(clip))]
    client.play(camera_messages(clip.images, clip.K, stamps), clip.rate, node.check)
    # In latest-wins mode any image may be dropped but the last.
    _wait(lambda: client.has_status(stamps[-1]), _RESULT_LIMIT, node, "the last image has no result")
    if not client.results_so_far:
        raise DemoFailed(f"no mask arrived{node.log_tail()}")


def _wait(condition: Callable[[], bool], limit: float, node: NodeProcess, otherwise: str) -> None:
    end = time.monotonic() + limit
    while not condition():
        node.check()
        if time.monotonic() > end:
            raise DemoFailed(f"{otherwise} after {limit:g} s{node.log_tail()}")
        time.sleep(0.02)


def _report(
    out: Path, clip: Clip, results: list[NodeResult], fps: float, memory: float, say: Callable[[str], None]
) -> dict[str, Any]:
    index_of = {_FIRST_STAMP_NS + clip.stamp_ns(index): index for index in range(len(clip))}
    indices = [index_of[result.stamp_ns] for result in results]
    try:
        found = evaluate(results, indices, clip)
    except ValueError as error:
        raise DemoFailed(f"the results cannot be compared with the truth: {error}") from error
    draw(out, results, indices, clip, found)
    numbers = _numbers(clip, results, found, fps, memory)
    details = {**numbers, **_details(clip, results, found)}
    (out / "demo.json").write_text(json.dumps(details, indent=2) + "\n")
    say(f"pictures, demo.json and node.log are in {out}/")
    return numbers


def _numbers(clip: Clip, results: list[NodeResult], found: DemoFigures, fps: float, memory: float) -> dict[str, Any]:
    p50, p95, worst = np.percentile([result.latency_ms for result in results], [50, 95, 100])
    return {
        "frames_in": len(clip),
        "frames_out": len(results),
        "drops": len(clip) - len(results),
        "fps": round(fps, 2),
        "latency_ms_p50": round(float(p50), 1),
        "latency_ms_p95": round(float(p95), 1),
        "latency_ms_worst": round(float(worst), 1),
        "mask_iou": round(found.mask.jm, 4),
        "ate": round(found.trajectory.ate, 5),
        "ate_percent_of_path": round(found.trajectory.ate_percent_of_path, 3),
        "peak_memory_mb": round(memory, 1),
    }


def _details(clip: Clip, results: list[NodeResult], found: DemoFigures) -> dict[str, Any]:
    """What demo.json has beyond the printed line."""
    return {
        "preset": clip.preset,
        "seed": clip.seed,
        "size": list(clip.size),
        "rate": clip.rate,
        "backbone": results[-1].status.backbone,
        "frames_with_pose": len(found.posed),
        "mask_recall": round(found.mask.jr, 4),
        "mask_boundary_f": round(found.mask.fm, 4),
        "rpe_translation": round(found.trajectory.rpe_translation, 5),
        "rpe_rotation_deg": round(found.trajectory.rpe_rotation, 4),
        "path_length": round(found.trajectory.path_length, 4),
        "depth_abs_rel": round(found.depth.abs_rel, 4),
        "depth_delta_125": round(found.depth.delta_125, 4),
        "depth_coverage": round(found.depth.coverage, 4),
        "stage_latency_ms": _median_stages(results),
        "drops_counted_by_node": int(results[-1].status.frames_dropped),
    }


def _median_stages(results: list[NodeResult]) -> dict[str, float]:
    names = list(results[-1].status.stage_names)
    full = [result.status.stage_latency_ms for result in results if list(result.status.stage_names) == names]
    return {name: round(float(np.median(values)), 2) for name, values in zip(names, np.transpose(full), strict=True)}
