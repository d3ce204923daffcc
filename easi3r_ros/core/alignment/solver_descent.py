"""From level to level and step to step, downhill."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment.solver_evaluate import Evaluation, Evaluator, Memory, Order
from easi3r_ros.core.alignment.solver_state import State
from easi3r_ros.core.alignment.solver_system import factorise, gauss_newton

COARSE_TOLERANCE = 3e-3  # relative: the optimum of so few pixels is no better than this on all
MAX_STEPS = 15  # per level
SHARES = (1.0, 0.25, 0.06)  # of a step, tried in turn while it makes things worse
WORSE = 1e-6  # relative growth of the objective that is more than rounding
SLOW = 0.2  # a step that promises more than this share of what the one before it did
REMEMBERED = 5  # steps


@dataclass
class Descent:
    """Gauss-Newton with the curvature of the coarsest level, and with what changes of the gradient teach."""

    levels: list[Evaluator]  # from coarse to fine
    tolerance: float  # relative: a step that promises less is the last
    factor: torch.Tensor | None = None  # Cholesky, of the newest curvature
    noise: float = float("nan")  # see Evaluation.noise
    passes: int = 0

    def run(self, state: State, memory: Memory) -> Evaluation:
        """The bottom on the finest level."""
        for level in self.levels[:-1]:
            here, step = self._descend(level, state, memory, COARSE_TOLERANCE)
            state, memory = here.moved(step), here.after
        here, step = self._descend(self.levels[-1], state, memory, self.tolerance)
        last, _ = self._walk(self.levels[-1], here, step, Order.VALUE)
        return last or here

    def _descend(
        self, level: Evaluator, state: State, memory: Memory, tolerance: float
    ) -> tuple[Evaluation, torch.Tensor]:
        """Where the next step (U,) promises less than `tolerance`, and that step."""
        order = Order.CURVATURE if level is self.levels[0] else Order.GRADIENT
        directions, before = _Directions(), float("inf")
        here = self._look(level, state, memory, None, order)
        for _ in range(MAX_STEPS):
            step = directions.step(self.factor, here.gradient)
            gain = -0.5 * float(here.gradient @ step) / here.value
            if here.comparable and gain < tolerance:
                break
            there, share = self._walk(level, here, step, order)
            if there is None:
                break
            if here.comparable:
                directions.learn(share * step, there.gradient - here.gradient)
            if order is Order.GRADIENT and gain > SLOW * before:
                self._look(self.levels[0], there.state, there.after, None, Order.CURVATURE)
            here, before = there, gain
        return here, step

    def _walk(
        self, level: Evaluator, here: Evaluation, step: torch.Tensor, order: Order
    ) -> tuple[Evaluation | None, float]:
        """The evaluation after as much of `step` as does not make things worse, and that share; None: nothing does."""
        for share in SHARES:
            part = share * step
            there = self._look(level, here.moved(part), here.after, here.depth_after(part), order)
            if not here.comparable or there.value <= here.value * (1 + WORSE):
                return there, share
        return None, 0.0

    def _look(
        self, level: Evaluator, state: State, memory: Memory, depth: torch.Tensor | None, order: Order
    ) -> Evaluation:
        self.passes += 1
        seen = level(state, memory, depth, order)
        if seen.curvature is not None:
            self.factor, self.noise = factorise(level.layout, seen.curvature), seen.noise
        return seen


class _Directions:
    """L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) that starts from Gauss-Newton.

    Re-weighted least squares bends too much in some directions and too little in others; two or three observed changes
    of the gradient put that right.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=REMEMBERED)

    def learn(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """The gradient changed by `change` (U,) over `step` (U,)."""
        if float(step @ change) > 0:
            self._seen.append((step, change))

    def step(self, factor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """(U,) from where the gradient is `gradient` (U,); factor: of the curvature."""
        q, shares = gradient, []
        for step, change in reversed(self._seen):
            shares.append(float(step @ q) / float(step @ change))
            q = q - shares[-1] * change
        x = gauss_newton(factor, q)
        for (step, change), share in zip(self._seen, reversed(shares), strict=True):
            x = x - (share + float(change @ x) / float(step @ change)) * step
        return x
