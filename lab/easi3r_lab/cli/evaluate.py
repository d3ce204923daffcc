"""`easi3r-lab eval`: figures on clips whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from easi3r_lab.cli import data_sets
from easi3r_lab.cli.tables import as_text, rounded

if TYPE_CHECKING:
    from rich.table import Table

    from easi3r_lab.eval.synthetic_clips import ClipSpec
    from easi3r_lab.synthetic.clips import RenderedFrame
    from easi3r_ros.core.config import PipelineConfig

app = typer.Typer(help="Accuracy on clips whose truth is known; docs/accuracy.md is made of it.", no_args_is_help=True)

COLUMNS = (
    ("JM", "jm", 2),
    ("JR", "jr", 2),
    ("FP %", "false_percent", 2),
    ("AbsRel", "abs_rel", 3),
    ("d<1.25", "delta_125", 2),
    ("depth", "depth_coverage", 2),
    ("ATE %", "ate_percent", 2),
    ("RPE deg", "rpe_degrees", 3),
    ("RPE %", "rpe_percent", 1),
    ("FPS", "fps", 1),
)
MOVING = "tabletop,walkers,traffic,handheld,crowd"
PRESETS = f"static,{MOVING}"
PAIR_COLUMNS = (
    ("AbsRel", "abs_rel", 3),
    ("d<1.25", "delta_125", 2),
    ("depth", "coverage", 2),
    ("rotation deg", "rotation", 2),
    ("median", "rotation_median", 2),
    ("if none", "rotation_if_none", 2),
    ("direction deg", "direction", 1),
    ("pairs", "pairs", 0),
)
OBJECT_COLUMNS = (
    ("velocity error m/s", "velocity_error", 2),
    ("true speed", "true_speed", 2),
    ("direction deg", "direction_degrees", 0),
    ("place error m", "position_error", 2),
    ("in 95 %", "within", 2),
    ("found", "found", 2),
    ("id switches", "switches", 0),
    ("movers", "movers", 0),
    ("false per image", "false_objects", 2),
)
METRES_COLUMNS = (
    ("locked after m", "locked_after", 2),
    ("share of frames", "locked", 2),
    ("error", "error", 3),
    ("sigma", "sigma", 3),
    ("largest error", "largest", 3),
    ("error of the way", "path_error", 3),
)

DAVIS_SETS = {
    "davis16": "Masks on the validation sequences of DAVIS 2016, or those that are there, online: J and F of DAVIS.",
    "davis17": "As davis16 on the validation sequences of DAVIS 2017; all their objects together are one foreground.",
    "davis-all": "As davis17, on every sequence that is there.",
}

Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint",
        help="Also this network: a file, a folder, a name of 'easi3r weights list', or tiny. May be repeated.",
    ),
]
Classical = Annotated[bool, typer.Option("--classical/--no-classical", help="The classical backbone.")]
Seeds = Annotated[str, typer.Option(help="Comma-separated; no training or tuning uses 100 and above.")]
Frames = Annotated[int, typer.Option(help="Length of each clip, 320 x 240.", min=10)]
Rate = Annotated[float, typer.Option(help="Frames per second of the clips.", min=1.0)]
Assignments = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting.")]

Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON per row instead of a table.")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The folder that holds JPEGImages and Annotations.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Keep the result of each sequence here; the same command then goes on.")
]
DAVIS_COLUMNS = (
    ("J mean", "region.mean", 3),
    ("J recall", "region.recall", 2),
    ("J decay", "region.decay", 2),
    ("F mean", "boundary.mean", 3),
    ("F recall", "boundary.recall", 2),
    ("F decay", "boundary.decay", 2),
    ("JM from frame 5", "settled_jm", 3),
    ("JR", "settled_jr", 2),
    ("precision", "precision", 2),
    ("recall", "recall", 2),
    ("lost %", "lost_percent", 1),
    ("ms", "ms", 0),
)


@app.command()
def synthetic(
    presets: Annotated[str, typer.Option(help="Comma-separated names of rendered scenes.")] = PRESETS,
    checkpoint: Checkpoints = None,
    classical: Classical = True,
    seeds: Seeds = "101,102",
    frames: Frames = 60,
    rate: Rate = 30.0,
    assignments: Assignments = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per row instead of a table.")] = False,
) -> None:
    """Masks, cues, depth and camera on rendered clips, with their movers frozen as a control, beside baselines."""
    import torch

    from easi3r_lab.eval.synthetic_clips import rows

    torch.set_num_threads(1)
    configs = _configs(checkpoint, classical, assignments)
    chosen = [_number(text) for text in _names(seeds, "--seeds")]
    collected = []
    for row in rows(_names(presets, "--presets"), chosen, frames, configs, rate):
        collected.append(row)
        if as_json:
            typer.echo(json.dumps(rounded(row.as_dict())))
    if not as_json:
        _print(collected)


@app.command("map")
def ghosts(
    presets: Annotated[str, typer.Option(help="Comma-separated names of rendered scenes with movers.")] = MOVING,
    seeds: Seeds = "101,102",
    frames: Frames = 60,
    rate: Rate = 30.0,
    assignments: Assignments = None,
) -> None:
    """Ghosts that movers leave in the map at the end of a clip, with and without masks and their removal."""
    from easi3r_lab.eval.moving_things import map_scores

    total: dict[str, list[int]] = {}
    table = _table("clip", "seed", "map", "ghosts", "% of those without masks", "static points")
    (config,) = _configs(None, True, assignments).values()
    for spec, clip in _clips(presets, seeds, frames, rate):
        scores = map_scores(clip, config)
        _add_ghosts(table, (spec.preset, str(spec.seed)), {k: (v.ghosts, v.static) for k, v in scores.items()})
        for way, score in scores.items():
            ghosts_, static = total.setdefault(way, [0, 0])
            total[way] = [ghosts_ + score.ghosts, static + score.static]
    _add_ghosts(table, ("all", ""), total)
    _show(table)


@app.command()
def objects(
    presets: Annotated[str, typer.Option(help="Comma-separated names of rendered scenes with movers.")] = MOVING,
    seeds: Seeds = "101,102",
    frames: Frames = 60,
    rate: Rate = 30.0,
    assignments: Assignments = None,
) -> None:
    """Objects and their ids: velocity error, id switches; with the depth that one camera has, and with a true one."""
    from easi3r_lab.eval.moving_things import results_of, score_of_objects, with_true_depth
    from easi3r_ros.core.config import with_settings

    table = _table("clip", "seed", "depth", *(title for title, _, _ in OBJECT_COLUMNS))
    (config,) = _configs(None, True, assignments).values()
    measured = with_settings(config, {"clouds.movers": "measured"})
    for spec, clip in _clips(presets, seeds, frames, rate):
        found = results_of(clip, config)
        for depth, results, settings in (
            ("estimated", found, config),
            ("true", with_true_depth(clip, found), measured),
        ):
            score = score_of_objects(spec, clip, results, settings)
            values = (as_text(getattr(score, key), digits) for _, key, digits in OBJECT_COLUMNS)
            table.add_row(spec.preset, str(spec.seed), depth, *values)
    _show(table)


def _davis_command(kind: str) -> Callable[..., None]:
    def command(
        root: Root,
        backbone: data_sets.Backbone = "auto",
        checkpoint: Checkpoints = None,
        classical: Classical = True,
        assignments: Assignments = None,
        out: Out = None,
        picture: data_sets.Picture = None,
        as_json: Json = False,
    ) -> None:
        options = {"checkpoints": checkpoint, "classical": classical, "assignments": assignments}
        _davis(kind, root, data_sets.chosen(backbone, options), out, picture, as_json)

    return command


for _kind, _words in DAVIS_SETS.items():
    app.command(_kind, help=_words)(_davis_command(_kind))


@app.command()
def metres(
    presets: Annotated[str, typer.Option(help="Comma-separated names of rendered scenes.")] = f"patrol,{PRESETS}",
    seeds: Seeds = "101,102",
    frames: Frames = 90,
    rate: Rate = 30.0,
    assignments: Assignments = None,
) -> None:
    """Metres from odometry, a depth sensor and the camera's height: when they are known, and how far off they are."""
    from easi3r_lab.eval.metres import SOURCES, score
    from easi3r_lab.eval.moving_things import results_of

    table = _table("clip", "seed", "source", *(title for title, _, _ in METRES_COLUMNS))
    (config,) = _configs(None, True, assignments).values()
    for spec, clip in _clips(presets, seeds, frames, rate):
        results = results_of(clip, config)
        for source in SOURCES:
            found = score(clip, results, source, config)
            values = ("-" if found is None else as_text(getattr(found, key), d) for _, key, d in METRES_COLUMNS)
            table.add_row(spec.preset, str(spec.seed), source, *values)
    _show(table)


@app.command()
def pairs(
    checkpoint: Checkpoints = None,
    classical: Classical = True,
    long_side: Annotated[int, typer.Option(help="Of the rendered images, pixels; a multiple of 32.", min=32)] = 96,
) -> None:
    """Depth and relative pose of single pairs of views, on scenes like those of `train` that it never sees."""
    import torch
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from easi3r_lab.training.held_out import pair_accuracy
    from easi3r_ros.core.backbone import build_backbone

    if long_side % 32:
        raise typer.BadParameter(f"--long-side is {long_side}, must be a multiple of 32")
    torch.set_num_threads(1)
    table = Table(box=box.MARKDOWN)
    for heading in ("backbone", "camera_info", *(title for title, _, _ in PAIR_COLUMNS)):
        table.add_column(heading, no_wrap=True)
    for name, config in _configs(checkpoint, classical).items():
        backbone = build_backbone(config.backbone)
        for known in (True, False):
            with torch.inference_mode():
                figures = pair_accuracy(backbone, long_side, known)
            row = (as_text(figures[key], digits) for _, key, digits in PAIR_COLUMNS)
            table.add_row(name, "yes" if known else "no", *row)
    Console(width=160).print(table)


@app.command()
def attention(
    checkpoint: Annotated[
        str, typer.Option(help="A file, a folder, a name of 'easi3r weights list', or tiny.")
    ] = "tiny",
    presets: Annotated[str, typer.Option(help="Comma-separated names of rendered scenes with movers.")] = MOVING,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "101,102",
    frames: Annotated[int, typer.Option(help="Length of each clip.", min=10)] = 20,
    rate: Annotated[float, typer.Option(help="Frames per second; the published graph reaches 9 frames.")] = 10.0,
) -> None:
    """Whether a network's cross-attention knows what moves: AUC of Easi3R's four maps, with frozen movers beside."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from easi3r_lab.eval.attention_effect import attention_effect
    from easi3r_lab.eval.synthetic_clips import ClipSpec, render
    from easi3r_ros.core.backbone import build_backbone

    (config,) = _configs([checkpoint], classical=False).values()
    backbone = build_backbone(config.backbone)
    table = Table("clip", "seed", "movers", box=box.MARKDOWN)
    for preset in _names(presets, "--presets"):
        for seed in (_number(text) for text in _names(seeds, "--seeds")):
            for frozen in (False, True):
                spec = ClipSpec(preset, seed, frames, rate=rate, frozen=frozen)
                auc = attention_effect(spec, render(spec), backbone).auc
                if not table.rows:
                    for name in auc:
                        table.add_column(name, no_wrap=True)
                table.add_row(
                    preset, str(seed), "frozen" if frozen else "moving", *(as_text(v, 2) for v in auc.values())
                )
    Console(width=160).print(table)


def _clips(presets: str, seeds: str, frames: int, rate: float) -> Iterator[tuple[ClipSpec, list[RenderedFrame]]]:
    """One after the other, rendered."""
    import torch

    from easi3r_lab.eval.synthetic_clips import ClipSpec, render

    torch.set_num_threads(1)
    for preset in _names(presets, "--presets"):
        for seed in [_number(text) for text in _names(seeds, "--seeds")]:
            spec = ClipSpec(preset, seed, frames, rate=rate)
            yield spec, render(spec)


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.MARKDOWN)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _show(table: Table) -> None:
    from rich.console import Console

    Console(width=160).print(table)


def _add_ghosts(table: Table, clip: tuple[str, str], scores: dict[str, Sequence[int]]) -> None:
    """scores: by how the map was made, ghosts and static points; the first is what the others are compared with."""
    most = next(iter(scores.values()))[0]
    for way, (ghosts_, static) in scores.items():
        share = f"{100 * ghosts_ / most:.1f}" if most else "-"
        table.add_row(*clip, way, str(ghosts_), share, str(static))


def _davis(
    kind: str, root: Path, options: dict[str, Any], out: Path | None, picture: Path | None, as_json: bool
) -> None:
    """Every sequence with every configuration: a table of all, or a line of JSON each and for their mean."""
    import torch
    from rich import box
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from easi3r_lab.eval.davis import ResultFolder, find_sequences, mean_score, score_sequence

    torch.set_num_threads(1)
    sequences, configs = find_sequences(root, kind), _configs(**options)
    table = Table(box=box.MARKDOWN)
    for heading in ("sequence", "backbone", *(title for title, _, _ in DAVIS_COLUMNS)):
        table.add_column(heading, no_wrap=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(kind, total=len(configs) * sum(len(sequence.images) for sequence in sequences))
        for name, config in configs.items():
            folder, scores = ResultFolder(out, config), []
            for sequence in sequences:
                progress.update(task, description=sequence.name)
                score = folder.get(sequence.name)
                if score is None:
                    score = score_sequence(sequence, config, lambda: progress.advance(task))
                    folder.put(score)
                else:
                    progress.advance(task, len(sequence.images))
                scores.append(score)
            for score in (*scores, mean_score(scores)):
                if as_json:
                    typer.echo(json.dumps(rounded({"data": kind, "backbone": name, **asdict(score)})))
                row = (as_text(attrgetter(key)(score), digits) for _, key, digits in DAVIS_COLUMNS)
                table.add_row(score.name, name, *row)
            data_sets.draw(kind, True, picture or (out / f"{kind}.png" if out else None), name, len(configs), scores)
    if not as_json:
        console = Console(width=160)
        console.print(table)
        data_sets.print_yardstick(kind, console)


def _configs(
    checkpoints: list[str] | None, classical: bool, assignments: list[str] | None = None
) -> dict[str, PipelineConfig]:
    """By what a table calls them: `classical`, then the checkpoints as they were named. assignments: for all."""
    from easi3r_lab.tiny import WEIGHTS
    from easi3r_ros.core.config import PipelineConfig, with_settings
    from easi3r_ros.io.hub import resolve
    from easi3r_ros.io.parameters import parse_assignments

    common = with_settings(PipelineConfig(), parse_assignments(assignments or []))
    configs = {"classical": with_settings(common, {"backbone.name": "classical"})} if classical else {}
    for name in checkpoints or []:
        path = str(WEIGHTS) if name == "tiny" else resolve(name)
        if not Path(path).exists():  # said now, not after minutes of rendering
            raise typer.BadParameter(f"there is no checkpoint '{path}'")
        configs[name] = with_settings(common, {"backbone.name": "dust3r", "backbone.checkpoint": path})
    if not configs:
        raise typer.BadParameter("nothing to evaluate: leave out --no-classical, or name a --checkpoint")
    return configs


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter(f"{option} is empty")
    return names


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"--seeds: '{text}' is no whole number") from None


def _print(collected: list) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    figures, cues = Table(box=box.MARKDOWN), Table(box=box.MARKDOWN)
    for heading in ("clip", "backbone", *(title for title, _, _ in COLUMNS), "frozen FP %"):
        figures.add_column(heading, no_wrap=True)
    for heading in ("clip", "map", "AUC", "frozen AUC", "JM, best threshold"):
        cues.add_column(heading, no_wrap=True)
    for row in collected:
        if row.figures:
            values = [as_text(row.figures[name], digits) for _, name, digits in COLUMNS]
            figures.add_row(row.preset, row.method, *values, as_text(row.frozen_false_percent, 2))
        for name, cue in row.cues.items():
            label = name if row.method == "baselines" else f"{row.method}: {name}"
            frozen = row.frozen_auc.get(name, float("nan"))
            cues.add_row(row.preset, label, as_text(cue.auc, 3), as_text(frozen, 3), as_text(cue.jm, 2))
    console = Console(width=160)
    console.print(figures)
    console.print(cues)


data_sets.register(app, _configs)
