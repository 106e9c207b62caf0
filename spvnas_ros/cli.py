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
    weights: Annotated[str, typer.Option("-w", "--weights", help="A .safetensors file, or a fetched model's name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for labels or bag, picture and summary.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    intensity: Annotated[
        str, typer.Option(help="The sensor's scale: auto, unit, u8, u16, none or the value that stands for 1.")
    ] = "auto",
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
    weights: Annotated[str, typer.Option("-w", "--weights", help="A .safetensors file, or a fetched model's name.")],
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
    engine: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    intensity: Annotated[
        str, typer.Option(help="The sensor's scale: auto, unit, u8, u16, none or the value that stands for 1.")
    ] = "auto",
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where the bag has several.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start again, and replace results that are there.")] = False,
) -> None:
    """Label a whole bag and score it: a new bag, and with a truth the IoU by class, a picture and report.json.

    Interrupted or killed, it goes on where it stopped when the same command is given again.
    """
    from spvnas_ros.offline.bag_evaluation import run

    if labels_field and labels:
        raise typer.BadParameter("the truth comes from a field (--labels-field) or from files (--labels), not both")
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
def doctor(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BAG",
            help="A rosbag2, a scan or a folder of scans. Live topics are not looked at yet: record a few seconds "
            "(ros2 bag record /topic) and give the bag.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option("-w", "--weights", help="Also hold the clouds against these weights, and measure them."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="How many clouds to label with --weights.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    intensity: Annotated[
        str, typer.Option(help="The scale to check: auto, unit, u8, u16, none or the value that stands for 1.")
    ] = "auto",
    topic: Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")] = None,
) -> None:
    """Look at clouds and say what fits the networks and what does not, with advice. Status 1 if something is bad."""
    from spvnas_ros.doctor import run

    raise typer.Exit(
        run(source, weights, frames=frames, device=device, engine=engine, intensity=intensity, topic=topic)
    )


@app.command()
@readable_errors()
def inspect(
    weights: Annotated[str, typer.Argument(help="A .safetensors file, or a fetched model's name.")],
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
