"""`easi3r-lab eval NAME ROOT` for the public data sets with cameras, depth or outlines; DAVIS is in `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from easi3r_lab.cli.tables import as_text, rounded

if TYPE_CHECKING:
    from easi3r_ros.core.config import PipelineConfig

MASK_COLUMNS = (
    ("J mean", "region.mean", 3),
    ("J recall", "region.recall", 2),
    ("F mean", "boundary.mean", 3),
    ("JM from frame 5", "settled_jm", 3),
    ("JR", "settled_jr", 2),
    ("precision", "precision", 2),
    ("recall", "recall", 2),
    ("lost %", "lost_percent", 1),
    ("ms", "ms", 0),
)
CAMERA_COLUMNS = (
    ("frames", "frames", 0),
    ("ATE m", "ate", 4),
    ("ATE %", "ate_percent", 2),
    ("RPE m", "rpe_translation", 4),
    ("RPE deg", "rpe_degrees", 3),
    ("placed %", "placed_percent", 0),
    ("AbsRel", "abs_rel", 3),
    ("d<1.25", "delta", 2),
    ("AbsRel s+t", "abs_rel_affine", 3),
    ("d s+t", "delta_affine", 2),
    ("depth", "depth_coverage", 2),
    ("acc m", "accuracy", 3),
    ("compl m", "completeness", 3),
    ("lost %", "lost_percent", 1),
    ("ms", "ms", 0),
)


@dataclass(frozen=True)
class DataSet:
    finder: str  # module:function of `easi3r_lab.datasets`
    masks: bool  # outlines are known; else cameras
    words: str  # help of the command


DATA_SETS = {
    "segtrackv2": DataSet("mask_sets:find_segtrackv2", True, "Masks on SegTrack v2. ROOT holds JPEGImages."),
    "fbms": DataSet("mask_sets:find_fbms", True, "Masks on FBMS-59. ROOT holds Testset or Trainingset."),
    "tum-rgbd": DataSet("rgbd:find_tum", False, "TUM RGB-D, sequences with movers. ROOT holds rgbd_dataset_*."),
    "bonn": DataSet("rgbd:find_bonn", False, "Bonn RGB-D Dynamic. ROOT holds rgbd_bonn_*."),
    "sintel": DataSet("rendered_sets:find_sintel", False, "MPI Sintel, pass final. ROOT holds training."),
    "kitti-odometry": DataSet("kitti:find_kitti", False, "KITTI odometry. ROOT holds sequences and poses."),
    "tartanair": DataSet("rendered_sets:find_tartanair", False, "TartanAir. ROOT holds the scenes."),
    "adt": DataSet("handheld_sets:find_adt", False, "Aria Digital Twin as in TAPVid-3D. ROOT holds .npz files."),
    "dycheck": DataSet("handheld_sets:find_dycheck", False, "DyCheck (iPhone). ROOT holds apple and others."),
}

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The unpacked data set; nothing is downloaded.")]
Backbone = Annotated[
    str,
    typer.Option(help="classical: that one (too); dust3r: the checkpoints alone; auto: what the other options say."),
]
Checkpoints = Annotated[
    list[str] | None, typer.Option("--checkpoint", help="A file, a folder, or a name. May be repeated.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting.")]
Only = Annotated[str, typer.Option(help="Comma-separated names of sequences; default: all.")]
Every = Annotated[int, typer.Option(min=1, help="Take every n-th frame; the paper: tum-rgbd 30, dycheck 10, adt 5.")]
Frames = Annotated[int | None, typer.Option(min=3, help="At most so many of a sequence, after --every.")]
Calibrated = Annotated[bool, typer.Option("--camera-info/--no-camera-info", help="Whether intrinsics are told.")]
Out = Annotated[Path | None, typer.Option(help="Keep each sequence's result here; the same command then goes on.")]
Picture = Annotated[Path | None, typer.Option(help="PNG of paths or masks; default: OUT/NAME.png, if there is an OUT.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON per row instead of a table.")]


@dataclass(frozen=True)
class Request:
    """What the options of a command say."""

    data: str
    root: Path
    only: str
    every: int
    frames: int | None
    with_K: bool
    out: Path | None
    picture: Path | None
    as_json: bool


def register(app: typer.Typer, configs: Callable[..., dict[str, PipelineConfig]]) -> None:
    """A command per data set. configs(checkpoints, classical, assignments): by what a table calls them."""
    for name in DATA_SETS:
        app.command(name, help=f"{DATA_SETS[name].words} The paper's figures are printed beside.")(
            _command(name, configs)
        )


def _command(name: str, configs: Callable[..., dict[str, PipelineConfig]]) -> Callable[..., None]:
    def command(
        root: Root,
        backbone: Backbone = "auto",
        checkpoint: Checkpoints = None,
        assignments: Settings = None,
        only: Only = "",
        every: Every = 1,
        frames: Frames = None,
        camera_info: Calibrated = True,
        out: Out = None,
        picture: Picture = None,
        as_json: Json = False,
    ) -> None:
        options = {"checkpoints": checkpoint, "classical": not checkpoint, "assignments": assignments}
        options = chosen(backbone, options)
        _evaluate(Request(name, root, only, every, frames, camera_info, out, picture, as_json), configs(**options))

    return command


def chosen(backbone: str, options: dict[str, Any]) -> dict[str, Any]:
    """`checkpoints`, `classical` and `assignments` as `--backbone` wants them."""
    if backbone not in ("auto", "classical", "dust3r"):
        raise typer.BadParameter(f"--backbone is '{backbone}', must be auto, classical or dust3r")
    if backbone == "dust3r" and not options["checkpoints"]:
        raise typer.BadParameter("--backbone dust3r needs a --checkpoint ('easi3r weights list')")
    return options if backbone == "auto" else options | {"classical": backbone == "classical"}


def _evaluate(request: Request, configs: dict[str, PipelineConfig]) -> None:
    """Every sequence with every configuration: a table, or JSON; the paper's figures; a picture."""
    import torch
    from rich import box
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from easi3r_lab.eval.davis import ResultFolder

    torch.set_num_threads(1)
    masks = DATA_SETS[request.data].masks
    videos, (kind, score_one, mean, columns) = _videos(request), _measures(masks, request.with_K)
    table = Table(box=box.MARKDOWN)
    for heading in ("sequence", "backbone", *(title for title, _, _ in columns)):
        table.add_column(heading, no_wrap=True)
    words = f"{request.data} {request.every} {request.frames} {request.with_K}"
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(request.data, total=len(configs) * sum(map(len, videos)))
        for name, config in configs.items():
            folder, scores = ResultFolder(request.out, config, kind, words), []
            for video in videos:
                progress.update(task, description=video.name)
                score = folder.get(video.name)
                if score is None:
                    score = score_one(video, config, lambda: progress.advance(task))
                    folder.put(score)
                else:
                    progress.advance(task, len(video))
                scores.append(score)
            for score in (*scores, mean(scores)):
                if request.as_json:
                    typer.echo(json.dumps(rounded({"data": request.data, "backbone": name, **_figures(score)})))
                row = (as_text(attrgetter(key)(score), digits) for _, key, digits in columns)
                table.add_row(score.name, name, *row)
            path = request.picture or (request.out / f"{request.data}.png" if request.out else None)
            draw(request.data, masks, path, name, len(configs), scores)
    if not request.as_json:
        console = Console(width=240)
        console.print(table)
        print_yardstick(request.data, console)


def _videos(request: Request) -> list[Any]:
    """Raises DataSetError."""
    import importlib

    from easi3r_lab.datasets.recorded import DataSetError

    module, _, function = DATA_SETS[request.data].finder.partition(":")
    found = getattr(importlib.import_module(f"easi3r_lab.datasets.{module}"), function)(request.root)
    wanted = [name.strip() for name in request.only.split(",") if name.strip()]
    unknown = sorted(set(wanted) - {video.name for video in found})
    if unknown:
        there = ", ".join(video.name for video in found)
        raise DataSetError(f"there is no sequence '{unknown[0]}' in {request.root}; there are: {there}")
    videos = [video for video in found if not wanted or video.name in wanted]
    if DATA_SETS[request.data].masks and request.every > 1:
        raise DataSetError("--every is for recordings: it would leave out annotated frames")
    return [video.thinned(request.every, request.frames) for video in videos]


def _measures(masks: bool, with_K: bool) -> tuple[Any, Callable, Callable, tuple]:
    """The dataclass of a score, how to make one, their mean, and its columns."""
    if masks:
        from easi3r_lab.eval.annotated import score_annotated
        from easi3r_lab.eval.davis import SequenceScore, mean_score

        return SequenceScore, score_annotated, mean_score, MASK_COLUMNS
    from easi3r_lab.eval.recordings import RecordingScore, mean_recording, score_recording

    def score(video: Any, config: PipelineConfig, tick: Callable[[], None]) -> RecordingScore:
        return score_recording(video, config, tick, with_K)

    return RecordingScore, score, mean_recording, CAMERA_COLUMNS


def _figures(score: Any) -> dict[str, Any]:
    return score.figures() if hasattr(score, "figures") else asdict(score)


def draw(data: str, masks: bool, path: Path | None, backbone: str, backbones: int, scores: list) -> None:
    """The picture of an evaluation, at `path` (None: not wanted); one for each of several backbones."""
    if path is None:
        return
    from easi3r_lab.eval.data_set_pictures import masks_picture, paths_picture
    from easi3r_lab.eval.pictures import save

    named = path.with_name(f"{path.stem}_{Path(backbone).stem}{path.suffix}") if backbones > 1 else path
    named.parent.mkdir(parents=True, exist_ok=True)
    save((masks_picture if masks else paths_picture)(scores, data), named)
    typer.echo(f"wrote {named}", err=True)


def print_yardstick(data: str, console: Any) -> None:
    """The paper's tables that have this data set; nothing where it has none."""
    from rich import box
    from rich.table import Table

    from easi3r_lab.eval.yardstick import NOTE, yardsticks

    for columns, methods in yardsticks(data):
        table = Table("the paper", *columns, box=box.MARKDOWN)
        for method, values in methods.items():
            table.add_row(method, *(f"{value:g}" for value in values))
        console.print(table)
    if yardsticks(data):
        console.print(f"{NOTE}", highlight=False)
    else:
        console.print("the paper has no figures for this data set", highlight=False)
