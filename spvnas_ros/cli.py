"""The `spvnas` command. Every command imports what it needs when it runs, so that `spvnas --help` answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="spvnas",
    help="Label LiDAR clouds with sparse point-voxel networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@contextmanager
def readable_errors() -> Iterator[None]:
    """End a command with one message on stderr and status 1 where it meets an error that is the user's to mend.

    The project's named errors are all ValueErrors or OSErrors; anything else is a bug and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"spvnas: {error}", err=True)
        raise typer.Exit(1) from error


zoo = typer.Typer(help="Published models: list them, fetch them into the cache.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

EngineOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or torch; or an installed spconv, spconv-triton, torchsparse.")
]
IntensityOption = Annotated[
    str, typer.Option(help="The sensor's scale: auto, unit, u8, u16, none or the value that stands for 1.")
]
WEIGHTS = "A .safetensors file, a fetched model's name, or `default`, the package's own network."

CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder; default $SPVNAS_CACHE, else ~/.cache/spvnas_ros.")
]


@zoo.command("list")
def zoo_list(cache: CacheOption = None) -> None:
    """Show the published models: size, score, label map, licence, and which are in the cache."""
    from rich.console import Console

    from spvnas_ros.zoo.cache import cache_folder
    from spvnas_ros.zoo.show import zoo_table

    Console().print(zoo_table(cache or cache_folder()))


@zoo.command("fetch")
@readable_errors()
def zoo_fetch(
    name: Annotated[str, typer.Argument(help="A name from `spvnas zoo list`.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A file you have already, instead of a download.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="With --from: the net.config of an SPVNAS model.")] = None,
    url: Annotated[str | None, typer.Option(help="Another address of the weights.")] = None,
    cache: CacheOption = None,
) -> None:
    """Put a published model into the cache: download (or take a file), check its hash, convert."""
    from spvnas_ros.zoo.cache import cache_folder
    from spvnas_ros.zoo.cards import DATA_TERMS, find_card
    from spvnas_ros.zoo.fetch import adopt, fetch
    from spvnas_ros.zoo.show import download_bar

    if source and url:
        raise typer.BadParameter("a model comes from a file (--from) or from an address (--url), not from both")
    card, folder = find_card(name), cache or cache_folder()
    if source:
        path = adopt(card, folder, source, config=config)
    else:
        with download_bar(card.name) as progress:
            path = fetch(card, folder, url=url, progress=progress)
    typer.echo(f"{path}\n{card.upstream} of {card.project}: {card.licence}; {DATA_TERMS}")


@app.command("import")
@readable_errors()
def import_(
    source: Annotated[Path, typer.Argument(help="`init` of mit-han-lab, `.pth` of mmdetection3d, or their folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    config: Annotated[Path | None, typer.Option(help="The net.config of an SPVNAS network.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="spvcnn or minkunet, for mit-han-lab files that cannot be told apart by their weights."),
    ] = None,
) -> None:
    """Convert a published checkpoint. Nothing that the file has pickled is run."""
    from spvnas_ros.zoo.checkpoint import save_checkpoint
    from spvnas_ros.zoo.importers import import_checkpoint

    net, facts = import_checkpoint(source, config=config, kind=kind)
    save_checkpoint(out, net, facts)
    count = sum(parameter.numel() for parameter in net.parameters())
    typer.echo(f"{out}: {facts.name}, {count:,} parameters, label map {facts.label_map} ({facts.provenance})")


@app.command()
@readable_errors()
def segment(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A .bin, .npy, .pcd or .ply scan, a folder of them, or a rosbag2.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for labels or bag, picture and summary.")],
    weights: Annotated[
        str,
        typer.Option("-w", "--weights", help="A .safetensors file, a fetched model's name, or the package's own net."),
    ] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: EngineOption = "auto",
    intensity: IntensityOption = "auto",
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also save the probabilities of all classes.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the results of an earlier run from the folder first.")
    ] = False,
) -> None:
    """Label scans or a bag: .label files or a new bag, and a picture of the first frame."""
    from spvnas_ros.segment_command import run

    status = run(
        source,
        weights,
        out,
        device=device,
        engine=engine,
        intensity=intensity,
        topic=topic,
        scores=scores,
        force=force,
    )
    raise typer.Exit(status)


@app.command()
@readable_errors()
def bag(
    source: Annotated[Path, typer.Argument(metavar="BAG", help="A rosbag2: its folder, or an .mcap or .db3 file.")],
    weights: Annotated[str, typer.Option("-w", "--weights", help=WEIGHTS)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the labelled bag, report and picture.")],
    labels_field: Annotated[str | None, typer.Option(help="The truth: a field of the clouds.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The truth: a folder of SemanticKITTI's .label files, one a cloud, in order.")
    ] = None,
    label_ids: Annotated[
        str,
        typer.Option(
            help="What --labels-field holds: raw (SemanticKITTI ids), class (indices, 255 = none), or auto: class "
            "where all numbers of the bag are classes or 255."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: EngineOption = "auto",
    intensity: IntensityOption = "auto",
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where the bag has several.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start again, and replace results that are there.")] = False,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime",
            help="Instead play it through the live node over ROS, at the bag's rate: latency, drops, age, report.json.",
        ),
    ] = False,
    rate: Annotated[float | None, typer.Option(help="With --realtime: times as fast as recorded (default 1).")] = None,
) -> None:
    """Label a whole bag and score it: a new bag, and with a truth the IoU by class, a picture and report.json.

    Interrupted or killed, it goes on where it stopped when the same command is given again.
    """
    if labels_field and labels:
        raise typer.BadParameter("the truth comes from a field (--labels-field) or from files (--labels), not both")
    if rate is not None and not (realtime and 0 < rate < float("inf")):
        raise typer.BadParameter("--rate is a number above 0, and goes with --realtime")
    if realtime:
        from spvnas_ros.ros.available import need_ros

        need_ros("--realtime")
        from spvnas_ros.replay_command import RealtimeOptions
        from spvnas_ros.replay_command import run as play

        options = RealtimeOptions(
            source, weights, out, rate or 1.0, topic, labels_field, labels, label_ids, device, engine, intensity
        )
        raise typer.Exit(play(options, force=force))
    from spvnas_ros.offline.bag_evaluation import run

    status = run(
        source,
        weights,
        out,
        labels_field=labels_field,
        labels=labels,
        label_ids=label_ids,
        device=device,
        engine=engine,
        intensity=intensity,
        topic=topic,
        force=force,
    )
    raise typer.Exit(status)


@app.command()
@readable_errors()
def view(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BAG|DIR",
            help="A rosbag2, a scan, a folder of scans (a SemanticKITTI sequence), or a folder of `spvnas segment`.",
        ),
    ],
    weights: Annotated[
        str | None, typer.Option("-w", "--weights", help="Label what is shown with these weights, as it is shown.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A folder of .label files, where they do not lie beside the scans.")
    ] = None,
    labels_field: Annotated[
        str | None, typer.Option(help="The field of a bag's clouds with the labels; default `label`.")
    ] = None,
    label_map: Annotated[
        str, typer.Option(help="What raw ids of labels mean: semantic-kitti or mit-han-lab.")
    ] = "semantic-kitti",
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to serve at. Whoever can reach it can see and control the viewer.")
    ] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: EngineOption = "auto",
    intensity: IntensityOption = "auto",
) -> None:
    """Look at a recording in the browser, in class colours; the page is served here and fetches nothing elsewhere."""
    from spvnas_ros.viewer.command import run

    status = run(
        source,
        weights,
        labels=labels,
        labels_field=labels_field,
        label_map=label_map,
        topic=topic,
        host=host,
        port=port,
        device=device,
        engine=engine,
        intensity=intensity,
    )
    raise typer.Exit(status)


@app.command()
@readable_errors()
def evaluate(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    data: Annotated[
        Path,
        typer.Argument(
            help="Labelled scans: SemanticKITTI's folder or a sequence of it (simulated drives too), KITTI, a folder "
            "of .bin and .label files, or a bag with a label field."
        ),
    ],
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
        typer.Option(help="What raw ids mean: semantic-kitti or mit-han-lab.", show_default="the network's own"),
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(
            "--sequences",
            "--split",
            help="Of a folder with sequences: numbers (08 or 00,02,04-07), or SemanticKITTI's train or val.",
            show_default="all",
        ),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")] = None,
    intensity: Annotated[
        str | None,
        typer.Option(
            help="The sensor's scale, as for `spvnas segment`.",
            show_default="unit in SemanticKITTI's and KITTI's layout, else auto",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for report.json and confusion.png.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: EngineOption = "auto",
) -> None:
    """Score weights on labelled scans: how well their labels agree with the true ones.

    Shows IoU (intersection over union) by class and by distance, its mean (mIoU), and how far the confidences can be
    trusted.
    """
    from spvnas_ros.offline.evaluation.dataset_evaluation import run

    run(
        weights,
        data,
        out=out,
        tta=tta,
        as_json=as_json,
        label_map=label_map,
        sequences=sequences,
        topic=topic,
        intensity=intensity,
        device=device,
        engine=engine,
    )


@app.command()
@readable_errors()
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
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the run.", show_default="runs/train/NAME")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same numbers each time, also on a GPU; slower.")
    ] = False,
) -> None:
    """Train a network, or fine-tune one: a recipe names the data, the network or weights to start from, and how long.

    The run's folder gets best.safetensors, which every command takes as --weights, a log, and a checkpoint from which a
    killed run goes on. Exit status 75: the recipe's trainer.max_minutes were over first; go on with --resume.

    Several GPUs or machines: torchrun --nproc_per_node=N --no-python spvnas train RECIPE ...
    """
    try:
        from spvnas_ros.offline.training.command import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("spvnas_ros"):
            raise
        package = (error.name or "").split(".")[0]
        raise ValueError(f"training needs {package}; install it: pip install 'spvnas_ros[train]'") from error
    raise typer.Exit(run(config, overrides or [], out, resume=resume, deterministic=deterministic))


@app.command()
@readable_errors()
def doctor(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BAG|/TOPIC",
            help="A rosbag2, a scan or a folder of scans; or a live topic: a name with a slash in front that is no "
            "file's (needs ROS 2).",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option("-w", "--weights", help="Also hold the clouds against these weights, and measure them."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="How many clouds to label with --weights.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: EngineOption = "auto",
    intensity: Annotated[
        str, typer.Option(help="The scale to check: auto, unit, u8, u16, none or the value that stands for 1.")
    ] = "auto",
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to listen to a live topic.")] = 5.0,
) -> None:
    """Look at clouds and say what fits the networks and what does not, with advice. Status 1 if something is bad.

    Of a live topic also QoS, transport and whether clouds are lost on the way.
    """
    live = source.is_absolute() and not source.exists()
    if live:
        from spvnas_ros.ros.available import need_ros

        need_ros(f"there is no file {source}; looking at a live topic")
    from spvnas_ros.doctor import Looking, run

    looking = Looking(weights, frames, device, engine, intensity)
    if not live:
        raise typer.Exit(run(source, looking, topic=topic))
    from spvnas_ros.ros import topic_doctor

    raise typer.Exit(topic_doctor.run(str(source), looking, seconds=seconds))


@app.command()
@readable_errors()
def simulate(
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
        str | None, typer.Option(help="urban, residential, suburban, highway or rural; default a mix.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="semantic-kitti, kitti (boxes), bag, or several with commas.")
    ] = "semantic-kitti",
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

    plan = make_plan(sensor, scans_per_scene, interval, seed, kind, formats)
    if compare:
        from spvnas_ros.offline.simulation.compare_command import run_comparison

        run_comparison(compare, sim, plan, scenes, out, processes or default_processes())
    elif sim:
        raise typer.BadParameter("--sim goes with --compare")
    else:
        run(plan, scenes, out, default_processes() if processes is None else processes)


@app.command()
@readable_errors()
def inspect(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    scan: Annotated[Path | None, typer.Option(help="Count multiply-accumulates on this scan.")] = None,
) -> None:
    """Show what a checkpoint holds: network, classes, provenance, and what it costs on a scan."""
    from rich.console import Console

    from spvnas_ros.zoo.cache import resolve_weights
    from spvnas_ros.zoo.inspect import describe

    console = Console()
    for part in describe(resolve_weights(weights), scan):
        console.print(part)


@app.command()
@readable_errors()
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
    import tempfile

    from spvnas_ros.bench.cpu import run
    from spvnas_ros.nets.spec import NetSpec
    from spvnas_ros.synthetic import street_scan

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


def main() -> None:
    """Entry point of the `spvnas` console script."""
    app()


if __name__ == "__main__":
    main()
