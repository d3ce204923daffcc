"""Steps from gradients: Gauss-Newton, corrected by how the gradient was seen to change."""

from __future__ import annotations

from collections import deque

import torch

from easi3r_ros.core.alignment.solver_system import gauss_newton

REMEMBERED = 5  # steps


class Directions:
    """L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) that starts from a Gauss-Newton curvature.

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
        """(U,) from where the gradient is `gradient` (U,); factor: of the curvature, see `solver_system.factorise`."""
        q, shares = gradient, []
        for step, change in reversed(self._seen):
            shares.append(float(step @ q) / float(step @ change))
            q = q - shares[-1] * change
        x = gauss_newton(factor, q)
        for (step, change), share in zip(self._seen, reversed(shares), strict=True):
            x = x - (share + float(change @ x) / float(step @ change)) * step
        return x
