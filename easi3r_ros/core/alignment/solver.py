"""The published alignment objective, minimised by a few re-weighted Gauss-Newton steps instead of hundreds of gradients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from easi3r_ros.core.alignment import solver_system as system
from easi3r_ros.core.alignment.reference import Options, Parameters, Problem
from easi3r_ros.core.alignment.solver_local import Curvature, curvature, gradient
from easi3r_ros.core.alignment.solver_observations import Observations, observe, subsample
from easi3r_ros.core.alignment.solver_state import State, from_parameters, retract, to_parameters
from easi3r_ros.core.alignment.solver_tile import Weighting, first_depth, linearise, settle, tiles

RELAXATION = 1.0
BUDGET = 1 << 16
MAX_PASSES = 20


@dataclass(frozen=True)
class SolverOptions:
    objective: Options = field(default_factory=lambda: Options(static_weighting=True))
    shared_focal: bool = True
    focal_prior: float = 0.25
    tolerance: float = 2e-6


@dataclass(frozen=True)
class Pass:
    objective: float
    gradient: torch.Tensor
    depth: torch.Tensor
    flow: torch.Tensor
    point: float


class Level:
    def __init__(self, o: Observations, weighting: Weighting, options: SolverOptions, layout):
        self.o, self.weighting, self.options, self.layout = o, weighting, options, layout
        self.flow_sums=None

    def run(self, state: State, depth, sweeps: int, want_curvature: bool):
        o = self.o
        sums = []
        curv = []
        new_depth = torch.empty(len(o.movers), o.pixels)
        L = 7 * (o.pair.shape[1] + (0 if o.flow is None else o.flow.target.shape[1])) + 1
        local = torch.zeros(len(o.movers), L, dtype=torch.float64)
        Hloc = torch.zeros(len(o.movers), L, L, dtype=torch.float64)
        point = 0.0
        fl = torch.zeros(2, 2, dtype=torch.float64)
        for (rows, cols), tile in tiles(o, state, self.weighting, BUDGET if not want_curvature else BUDGET * 2):
            d = first_depth(tile) if depth is None else depth[rows, cols]
            d = settle(tile, d, sweeps)
            lin = linearise(tile, d)
            s = gradient(tile, lin)
            new_depth[rows, cols] = s.depth
            local[rows] += s.gradient
            point += float(s.point)
            fl += s.flow
            if want_curvature:
                c = curvature(tile, s.depth)
                Hloc[rows] += c.matrix
                curv.append(((rows, cols), c))
        return point, fl, local, Hloc, curv, new_depth


def solve(problem: Problem, options: SolverOptions, start: Parameters, levels=(4, 2, 1), verbose=False, hook=None):
    obj = options.objective
    frames, height, width = problem.masks.shape
    state = from_parameters(start, options.shared_focal)
    K = torch.tensor([[1.0, 0, width / 2], [0, 1.0, height / 2], [0, 0, 1]], dtype=torch.float64)
    full = observe(problem, K, bool(obj.flow_weight), start.log_depth if obj.depth_prior_weight else None)
    layout = system.Layout(frames, len(state.focal), len(problem.edges))
    near = float(start.log_depth[:, ::4, ::4].exp().median()) * 1e-5
    flow_w = torch.zeros(2, dtype=torch.float64)
    fraction = None
    factor = None
    passes = 0
    mean = pull = torch.zeros(frames, 1)
    for stride in levels:
        o = subsample(full, stride)
        depth = None
        best = None
        relax = RELAXATION
        for it in range(MAX_PASSES):
            want = stride != levels[-1] if len(levels) > 1 else True
            w = Weighting(near, obj.static_weighting, flow_w, obj.depth_prior_weight / (frames * o.pixels), mean, pull)
            level = Level(o, w, options, layout)
            sweeps = 4 if depth is None else 2
            point, fl, local, Hloc, curv, depth_new = level.run(state, depth, sweeps, want)
            mapping = system.local_map(layout, o, state)
            g = system.gather_gradient(layout, mapping, local)
            value = point
            H = None
            if want:
                H = system.gather_curvature(layout, mapping, Hloc)
            if obj.temporal_weight:
                v, gt, Ht = system.temporal(layout, state, obj.temporal_weight, obj.translation_weight)
                value += float(v)
                g += gt
                if want:
                    H += Ht
            if obj.flow_weight:
                terms = fl[:, 0] / fl[:, 1].clamp(min=1)
                on = float(terms.sum()) <= obj.flow_limit
                if float(flow_w.sum()) > 0:
                    value += obj.flow_weight * float(terms.sum())
                flow_w = obj.flow_weight / fl[:, 1].clamp(min=1) * on
            if obj.depth_prior_weight:
                m = 1 + o.movers
                ch = depth_new.log() - o.initial_log_depth
                mean = ch.mean(1, keepdim=True)
                pull = (m * (ch - mean)).mean(1, keepdim=True)
                value += obj.depth_prior_weight * float((m * (ch - mean) ** 2).mean())
            if layout.focals > 1 and options.focal_prior:
                lf = state.focal.log()
                dev = lf - lf.mean()
                lam = options.focal_prior * point
                at = slice(6 * frames, 6 * frames + frames)
                g[at] += lam * dev
                if want:
                    H[at, at] += lam * (torch.eye(frames, dtype=torch.float64) - 1 / frames)
            if want:
                factor = system.factorise(layout, H)
            g = system.without_gauge(layout, g)
            x = system.solve_step(factor, g)
            passes += 1
            decrement = -0.5 * relax * float(g @ x) / value
            if verbose:
                print(f"stride {stride} pass {it} value {value:.8f} decrement {decrement:.2e} flow {fl[:,0]/fl[:,1].clamp(min=1)}")
            depth = depth_new
            tol = options.tolerance if stride == 1 else 1e-4
            if hook and stride == 1: hook(state, depth)
            if decrement < tol and it > 0:
                break
            x = relax * x
            pose, foc, pair = layout.split(x)
            state = retract(state, pose, foc, pair)
            if want:
                ls = torch.einsum("tlv,tv->tl", mapping.matrix, torch.cat([x, x.new_zeros(1)])[mapping.index])
                for (rows, cols), c in curv:
                    dd = c.depth_step(ls[rows])
                    depth[rows, cols] = torch.maximum(depth[rows, cols] + dd, 0.3 * depth[rows, cols])
        if stride != 1:
            # the weights of a flow component scale with the number of pixels
            nxt = levels[levels.index(stride) + 1]
            flow_w = flow_w * (o.pixels / (height // nxt * (width // nxt)))
    return state, depth.reshape(frames, height, width), passes
