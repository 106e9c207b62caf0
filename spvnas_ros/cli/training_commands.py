"""Commands on labelled data: make it, train on it, score on it; and the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from spvnas_ros.cli.errors import readable_errors
from spvnas_ros.cli.options import (
    DeviceOption,
    EngineOption,
    IntensityFieldOption,
    LabelIdsOption,
    MountOption,
    NetworkLabelsOption,
    OriginOption,
    PaletteOption,
    PrecisionOption,
    QuietOption,
    ReplaceOption,
    TopicOption,
    WeightsOption,
    label_field,
)
from spvnas_ros.errors import UserError


@readable_errors
def evaluate(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="Labelled scans: SemanticKITTI's folder or a sequence of it (simulated drives too), KITTI, a folder "
            "of .bin and .label files, or a bag with a label field."
        ),
    ],
    weights: WeightsOption = "default",
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULTS|WEIGHTS",
            help="Score boxes instead: those of a network (file or name) on KITTI's object set or a simulated drive "
            "with boxes; or without one a folder of KITTI's result files (.txt) against label_2 in DATA, or a bag with "
            "Detection3DArray messages (--topic) against those of the bag DATA (--truth).",
            show_default=False,
        ),
    ] = None,
    track: Annotated[
        bool,
        typer.Option(
            "--track",
            help="With --boxes: follow the boxes of a network, or of a run of `spvnas segment`, through a simulated "
            "drive, and score who is taken for whom (MOTA, AMOTA).",
        ),
    ] = False,
    poses: Annotated[
        bool,
        typer.Option("--poses/--no-poses", help="With --track: follow in a fixed frame, or in the sensor's own."),
    ] = True,
    every: Annotated[
        int, typer.Option(min=1, help="With --track: take every so manieth scan, as if the others were lost.")
    ] = 1,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Test-time augmentation: average 36 views of each scan, which takes 36 times as long."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON object, and only that.")
    ] = False,
    label_map: Annotated[
        str | None,
        typer.Option(
            help="What raw ids mean: semantic-kitti, mit-han-lab or nuscenes.", show_default="the network's own"
        ),
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(
            "--sequences",
            "--split",
            help="Of a folder with sequences: numbers (08 or 00,02,04-07), or train or val; of nuScenes scenes.",
            show_default="all",
        ),
    ] = None,
    topic: TopicOption = None,
    truth: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The field of a bag's clouds with the truth.", show_default="label"),
    ] = None,
    label_ids: LabelIdsOption = "auto",
    network_labels: NetworkLabelsOption = False,
    intensity: Annotated[
        str | None,
        typer.Option(
            help="The sensor's scale, as for `spvnas segment`.",
            show_default="unit in SemanticKITTI's and KITTI's layout, u8 in nuScenes', else auto",
        ),
    ] = None,
    intensity_field: IntensityFieldOption = None,
    origin: OriginOption = None,
    mount: MountOption = None,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Keep so many of a scan's 64 beams, as a smaller sensor would.", show_default="all"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for report.json and pictures.")] = None,
    palette: PaletteOption = "spvnas",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    quiet: QuietOption = False,
) -> None:
    """Score weights on labelled scans: how well their labels agree with the true ones.

    Shows IoU (intersection over union) by class and by distance, its mean (mIoU), and how far the confidences can be
    trusted. Exit status 1: scans were left out, or no point has a label.

    With --boxes: average precision as KITTI's development kit has it, and by distance around the sensor; with --track
    how well objects keep their ids.
    """
    if boxes is not None:
        _only_with_boxes(context)
        from spvnas_ros.offline.evaluation.box_evaluation import run_boxes

        raise typer.Exit(
            run_boxes(
                data,
                boxes,
                truth=truth,
                topic=topic,
                sequences=sequences,
                device=device,
                track=track,
                posed=poses,
                every=every,
                out=out,
                as_json=as_json,
            )
        )
    if track or not poses or every != 1:
        raise typer.BadParameter("--track, --no-poses and --every follow boxes: they go with --boxes")
    from spvnas_ros.offline.evaluation.dataset_evaluation import run

    status = run(
        weights,
        data,
        out=out,
        tta=tta,
        as_json=as_json,
        label_map=label_map,
        sequences=sequences,
        topic=topic,
        field=label_field(truth, label_ids, network_labels),
        intensity=intensity,
        intensity_field=intensity_field,
        origin=origin,
        mount=mount,
        quiet=quiet,
        beams=beams,
        palette=palette,
        device=device,
        engine=engine,
        precision=precision,
    )
    raise typer.Exit(status)


_WITH_BOXES = {"data", "boxes", "truth", "topic", "as_json", "out", "quiet", "sequences", "device"} | {
    "track",
    "poses",
    "every",
}


def _only_with_boxes(context: typer.Context) -> None:
    """Raises BadParameter for options that say something about a network or scans, of which there are none."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _WITH_BOXES:
            continue
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{parameter.opts[-1]} does not go with --boxes, which scores boxes")


_RunOption = Annotated[
    Path | None, typer.Option("-o", "--out", help="Folder for the run.", show_default="runs/train/NAME")
]
_ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")]
_DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="The same numbers each time, also on a GPU; slower.")
]


@readable_errors
def train(
    config: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="A YAML file, such as config/train/sim_tiny.yaml or fine_tune.yaml."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Values that replace the recipe's, such as data.train=FOLDER or trainer.epochs=3.",
        ),
    ] = None,
    out: _RunOption = None,
    resume: _ResumeOption = False,
    deterministic: _DeterministicOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network, or fine-tune one: a recipe names the data, the network or weights to start from, and how long.

    The run's folder gets best.safetensors, which every command takes as --weights, a log, and a checkpoint from which a
    killed run goes on. Exit status 75: the recipe's trainer.max_minutes were over first; go on with --resume.

    Several GPUs or machines: torchrun --nproc_per_node=N --no-python spvnas train RECIPE ...
    """
    raise typer.Exit(_trained(config, overrides or [], out, resume=resume, deterministic=deterministic, quiet=quiet))


def _trained(config: Path, overrides: list[str], out: Path | None, **options: bool) -> int:
    """Runs a training, and returns its exit status."""
    try:
        from spvnas_ros.offline.training.command import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("spvnas_ros"):
            raise
        package = (error.name or "").split(".")[0]
        raise UserError(f"training needs {package}; install it: pip install 'spvnas_ros[train]'") from error
    return run(config, overrides, out, **options)


_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)


@readable_errors
def adapt(
    drives: Annotated[
        list[str],
        typer.Argument(
            metavar="DRIVE... [KEY=VALUE]...",
            help="Recordings without labels: whatever `spvnas segment` reads. Labels beside them are not read. And "
            "values that replace the recipe's, such as adapt.share=0.3.",
            show_default=False,
        ),
    ],
    weights: WeightsOption = "default",
    out: _RunOption = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Another recipe.", show_default="config/train/adapt.yaml")
    ] = None,
    resume: _ResumeOption = False,
    deterministic: _DeterministicOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adapt a network to your own recordings, without labels: it learns of them what it is sure of, beside labelled
    (simulated) scans. It may get better there or worse: score it on some labelled scans before you use it.

    The run's folder gets last.safetensors, which every command takes as --weights, and adapted.json, which says what
    was learnt of each class. It is `spvnas train` with a recipe of its own: docs/adapting.md.
    """
    targets = [word for word in drives if not _OVERRIDE.fullmatch(word) or Path(word).exists()]
    overrides = [word for word in drives if word not in targets]
    if targets:
        overrides.insert(0, f"adapt.target={json.dumps(targets)}")
    overrides.insert(0, f"start={json.dumps(weights)}")
    config = recipe or _own_recipe("adapt.yaml")
    raise typer.Exit(_trained(config, overrides, out, resume=resume, deterministic=deterministic, quiet=quiet))


@readable_errors
def calibrate(
    drives: Annotated[
        list[Path],
        typer.Argument(
            metavar="DRIVE...",
            help="Labelled scans, as for `spvnas evaluate`, that the network was not trained on; each drive counts the "
            "same, so give one for each sensor.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    weights: WeightsOption = "default",
    by: Annotated[
        str,
        typer.Option(
            help="one: a temperature, which changes no label. class: a temperature for each class; class-bias: and a "
            "bias; both may change labels. best: what holds best on scans that it was not fitted on.",
        ),
    ] = "one",
    margin: Annotated[
        float,
        typer.Option(help="Temperatures are so many times, 1 to 3, what fits these scans: for less well known ones."),
    ] = 1.0,
    scans: Annotated[
        int | None, typer.Option(min=2, help="Of each drive, evenly spread.", show_default="24, or all there are")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store in half precision: half the file.")] = False,
    force: ReplaceOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was fitted as one JSON object, and only that.")
    ] = False,
    label_map: Annotated[
        str | None, typer.Option(help="What raw ids mean, as for `spvnas evaluate`.", show_default="the network's own")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option("--sequences", "--split", help="Of folders with sequences.", show_default="all")
    ] = None,
    topic: TopicOption = None,
    truth: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The field of a bag's clouds with the truth.", show_default="label"),
    ] = None,
    label_ids: LabelIdsOption = "auto",
    network_labels: NetworkLabelsOption = False,
    intensity: Annotated[
        str | None, typer.Option(help="The sensor's scale, as for `spvnas evaluate`.", show_default="by the layout")
    ] = None,
    intensity_field: IntensityFieldOption = None,
    origin: OriginOption = None,
    mount: MountOption = None,
    quiet: QuietOption = False,
) -> None:
    """Put a network's confidences right on labelled scans, and write it anew: the last layer alone changes, so that it
    costs nothing.

    Shows how far confidences can be trusted before and after, on the half of the scans that is held out: calibration
    error, and the points that are wrong with a confidence over 0.8. Exit status 1: scans were left out.
    """
    from spvnas_ros.offline.training.calibrate import run

    status = run(
        drives,
        weights,
        out,
        kind=by,
        margin=margin,
        scans=scans,
        half=half,
        force=force,
        as_json=as_json,
        label_map=label_map,
        sequences=sequences,
        topic=topic,
        field=label_field(truth, label_ids, network_labels),
        intensity=intensity,
        intensity_field=intensity_field,
        origin=origin,
        mount=mount,
        quiet=quiet,
    )
    raise typer.Exit(status)


def _own_recipe(name: str) -> Path:
    """Returns a recipe that comes with the package. Raises UserError where it was installed without."""
    from spvnas_ros.ros.process.transport import share_folders

    for folder in share_folders():
        if (path := folder / "config" / "train" / name).is_file():
            return path
    raise UserError(f"the package was installed without config/train/{name}; get the file and name it with --recipe")


@readable_errors
def simulate(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the scans, or for the report of --compare.")],
    sensor: Annotated[str, typer.Option(help="hdl64, vlp16, vlp32c, os1-64 or os1-128.")] = "hdl64",
    scenes: Annotated[int, typer.Option(help="How many streets; each is a sequence.")] = 10,
    scans_per_scene: Annotated[int, typer.Option(help="Revolutions in each street.")] = 10,
    interval: Annotated[
        float | None,
        typer.Option(help="Seconds between them; default 1, for a bag one revolution.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Everything follows from it, to the byte.")] = 0,
    kind: Annotated[
        str | None, typer.Option(help="urban, residential, suburban, highway, rural or parking; default a mix.")
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format", help="semantic-kitti, kitti (boxes ahead), boxes (all around), bag, or several with commas."
        ),
    ] = "semantic-kitti",
    mount_height: Annotated[
        str | None,
        typer.Option(
            metavar="METRES[:METRES]",
            help="Height of the sensor above the ground; of a range, one is drawn for each street. Scans are written "
            "upright and 1.73 m above the ground, as networks know them, bags as the sensor saw them.",
            show_default="1.73, on a car",
        ),
    ] = None,
    mount_tilt: Annotated[
        float, typer.Option(metavar="DEGREES", help="How far the sensor leans at most, drawn for each street.")
    ] = 0.0,
    mount_share: Annotated[
        float, typer.Option(help="Share of the streets with such a mount; in the others it is 1.73 m, upright.")
    ] = 1.0,
    processes: Annotated[int | None, typer.Option(help="Default: one for each processor.", show_default=False)] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Measure realism against these real scans (SemanticKITTI's layout) instead.")
    ] = None,
    sim: Annotated[
        Path | None, typer.Option(help="With --compare: scans simulated earlier; without it, they are made.")
    ] = None,
) -> None:
    """Make labelled LiDAR drives in streets that do not exist, or measure how close such drives are to real ones.

    Interrupted or killed, it goes on with the scenes that are missing when the same command is given again.
    """
    from spvnas_ros.offline.simulation.command import default_processes, make_plan, run

    if sim and compare:
        for parameter in context.command.params:
            source = context.get_parameter_source(parameter.name or "")
            if parameter.name not in ("out", "compare", "sim") and source is not None and source.name == "COMMANDLINE":
                raise typer.BadParameter(f"{parameter.opts[-1]} makes scans, and --sim names some that are there")
    plan = make_plan(sensor, scans_per_scene, interval, seed, kind, formats, mount_height, mount_tilt, mount_share)
    if compare:
        from spvnas_ros.offline.simulation.compare_command import run_comparison

        run_comparison(compare, sim, plan, scenes, out, default_processes() if processes is None else processes)
    elif sim:
        raise typer.BadParameter("--sim goes with --compare")
    else:
        run(plan, scenes, out, default_processes() if processes is None else processes)


@readable_errors
def bench(
    scan: Annotated[
        Path | None, typer.Option(help="A scan to measure on; a generated street scan if there is none.")
    ] = None,
    widths: Annotated[str, typer.Option(help="SPVCNN widths, separated by commas.")] = "16,32",
    rounds: Annotated[int, typer.Option(min=1, help="How often every contender has its turn.")] = 3,
    frames: Annotated[int, typer.Option(min=1, help="Frames per turn.")] = 3,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for bench.md and bench.json.")] = None,
) -> None:
    """Measure the CPU engine beside the reference, and beside spconv and torchsparse where they are installed."""
    if not all(width.strip().isdecimal() and int(width) for width in widths.split(",")):
        raise typer.BadParameter(f"--widths is {widths!r}, expected whole numbers separated by commas, such as 16,32")
    import tempfile

    from spvnas_ros.bench.cpu import run
    from spvnas_ros.engine.sample_street import street_scan
    from spvnas_ros.nets.spec import NetSpec

    with tempfile.TemporaryDirectory() as folder:
        if scan is None:
            scan = Path(folder) / "street_scan.bin"
            street_scan(seed=0)[0].tofile(scan)
        networks = [("spvcnn", NetSpec.spvcnn(int(width)).stem[0]) for width in widths.split(",")]
        report = run(scan, networks, rounds, frames, progress=lambda line: typer.echo(line, err=True))
    typer.echo(report.markdown())
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench.md").write_text(report.markdown() + "\n")
        (out / "bench.json").write_text(report.json() + "\n")
