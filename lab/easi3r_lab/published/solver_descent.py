"""From level to level and step to step, downhill."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from easi3r_lab.published.solver_evaluate import Evaluation, Evaluator, Memory, Order
from easi3r_lab.published.solver_state import State
from easi3r_lab.published.solver_system import factorise, gauss_newton

COARSE_TOLERANCE = 3e-3  # relative: the optimum of so few pixels is no better than this on all
MAX_STEPS = 20  # per level
WORSE = 1e-6  # relative growth of the objective that is more than rounding
SLOW = 0.2  # a step that promises more than this share of what the one before it did
LEAST_DAMPING, MOST_DAMPING = 3e-4, 10.0  # Levenberg-Marquardt, see solver_system.factorise
DAMPING_GROWTH, DAMPING_DECAY = 100.0, 0.1
REMEMBERED = 5  # steps


@dataclass
class Descent:
    """Gauss-Newton with the curvature of the coarsest level, and with what changes of the gradient teach."""

    levels: list[Evaluator]  # from coarse to fine
    tolerance: float  # relative: a step that promises less is the last
    curvature: torch.Tensor | None = None  # (U, U) the newest
    noise: float = float("nan")  # see Evaluation.noise
    damping: float = LEAST_DAMPING
    passes: int = 0
    _factor: tuple[torch.Tensor, float, torch.Tensor] | None = None  # of which curvature, with which damping

    def run(self, state: State, memory: Memory) -> Evaluation:
        """The bottom on the finest level. Raises ValueError if the pairs do not determine poses at all."""
        for level in self.levels[:-1]:
            here, step = self._descend(level, state, memory, COARSE_TOLERANCE)
            state, memory = here.moved(step), here.after
        here, step = self._descend(self.levels[-1], state, memory, self.tolerance)
        self.damping = LEAST_DAMPING
        last = self._look(self.levels[-1], here.moved(step), here.after, here.depth_after(step), Order.VALUE)
        return here if _worse(last, here) else last

    def factor(self) -> torch.Tensor:
        """Cholesky, of the newest curvature, damped as far as necessary. Raises ValueError if nothing helps."""
        while self.damping <= MOST_DAMPING:
            known = self._factor
            if known is not None and known[0] is self.curvature and known[1] == self.damping:
                return known[2]
            factor = factorise(self.levels[0].layout, self.curvature, self.damping)
            if factor is not None:
                self._factor = self.curvature, self.damping, factor
                return factor
            self.damping *= DAMPING_GROWTH
        raise ValueError("the pairs do not determine poses: nothing static is left in them, or no confidence")

    def _descend(
        self, level: Evaluator, state: State, memory: Memory, tolerance: float
    ) -> tuple[Evaluation, torch.Tensor]:
        """Where the next step (U,) promises less than `tolerance`, and that step."""
        order = Order.CURVATURE if level is self.levels[0] else Order.GRADIENT
        here = self._look(level, state, memory, None, order)
        self.damping = LEAST_DAMPING
        directions, factor, before = _Directions(), self.factor(), float("inf")
        for _ in range(MAX_STEPS):
            step = directions.step(factor, here.gradient)
            gain = -0.5 * float(here.gradient @ step) / here.value
            if here.comparable and gain < tolerance:
                break
            there = self._look(level, here.moved(step), here.after, here.depth_after(step), order)
            if _worse(there, here):
                directions = _Directions()
                self.damping *= DAMPING_GROWTH
                if self.damping > MOST_DAMPING:
                    return here, torch.zeros_like(step)
                if order is Order.CURVATURE:
                    self.curvature = here.curvature
                factor = self.factor()
                continue
            if here.comparable:
                directions.learn(step, there.gradient - here.gradient)
            if order is Order.GRADIENT and gain > SLOW * before:
                self._look(self.levels[0], there.state, there.after, None, Order.CURVATURE)
            if order is Order.CURVATURE or gain > SLOW * before:
                self.damping = max(self.damping * DAMPING_DECAY, LEAST_DAMPING)
                factor = self.factor()
            here, before = there, gain
        return here, step

    def _look(
        self, level: Evaluator, state: State, memory: Memory, depth: torch.Tensor | None, order: Order
    ) -> Evaluation:
        self.passes += 1
        seen = level(state, memory, depth, order)
        if seen.curvature is not None:
            self.curvature, self.noise = seen.curvature, seen.noise
        return seen


def _worse(there: Evaluation, here: Evaluation) -> bool:
    """Also if it is not a number. Where other terms count than before, nothing can be said."""
    return here.comparable and not there.value <= here.value * (1 + WORSE)


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
