"""Commands on recordings: label them, replay them through the node, look at them, examine them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spvnas_ros.cli.errors import readable_errors
from spvnas_ros.cli.options import (
    SCALES,
    BoxesOption,
    ClassificationOption,
    ColumnsOption,
    DeviceOption,
    EngineOption,
    ForceOption,
    FormatOption,
    IntensityFieldOption,
    IntensityOption,
    LabelIdsOption,
    MinScoreOption,
    MountOption,
    NetworkLabelsOption,
    OptionalWeightsOption,
    OriginOption,
    PaletteOption,
    PrecisionOption,
    QuietOption,
    RayOption,
    TileOption,
    TopicOption,
    TruthOption,
    WeightsOption,
    chosen_truth,
)


@readable_errors
def segment(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="A scan (.bin, .pcd.bin, .npy, .npz, .pcd, .ply, .las, .laz, .e57, .xyz, .asc, .txt, .csv, .pts, "
            ".parquet, .feather), a folder of them, a data set's root (docs/datasets.md), or a recording: a rosbag2 "
            "folder, .mcap, .db3, .bag (ROS 1), .pcap or .osf. Several: each has a folder of its own below --out.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for labels or bag, picture, scores and summary.")],
    weights: WeightsOption = "default",
    boxes: BoxesOption = None,
    min_score: MinScoreOption = None,
    truth: TruthOption = None,
    label_ids: LabelIdsOption = "auto",
    network_labels: NetworkLabelsOption = False,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    intensity: IntensityOption = "auto",
    intensity_field: IntensityFieldOption = None,
    origin: OriginOption = None,
    mount: MountOption = None,
    topic: TopicOption = None,
    columns: ColumnsOption = None,
    label_format: FormatOption = "auto",
    classification: ClassificationOption = "",
    tile: TileOption = "auto",
    scores: Annotated[bool, typer.Option("--scores", help="Also save the probabilities of all classes.")] = False,
    palette: PaletteOption = "spvnas",
    benchmark: Annotated[
        bool,
        typer.Option(
            "--benchmark", help="Of SemanticKITTI's root, label the test split and pack the zip that its server takes."
        ),
    ] = False,
    sweeps: Annotated[
        bool, typer.Option("--sweeps", help="Of nuScenes, label the scans between keyframes, too.")
    ] = False,
    force: ForceOption = False,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", min=1, help="How many of several sources are labelled at a time.", show_default="one"
        ),
    ] = None,
    ray: RayOption = None,
    quiet: QuietOption = False,
) -> None:
    """Label a recording: .label files or a new bag, and a picture; with --truth also scores and a confusion picture.

    With --boxes, or weights that find boxes, also objects, as JSON, as KITTI's results, or in the bag.

    Interrupted or killed, it goes on where it stopped when the same command is given again. Exit status 1: frames were
    left out, or no point could be labelled.
    """
    options = {
        "weights": weights,
        "boxes": boxes,
        "min_score": min_score,
        "truth": truth,
        "label_ids": label_ids,
        "network_labels": network_labels,
        "device": device,
        "engine": engine,
        "precision": precision,
        "intensity": intensity,
        "intensity_field": intensity_field,
        "origin": origin,
        "mount": mount,
        "topic": topic,
        "columns": columns,
        "label_format": label_format,
        "classification": classification,
        "tile": tile,
        "scores": scores,
        "palette": palette,
        "benchmark": benchmark,
        "sweeps": sweeps,
        "force": force,
        "quiet": quiet,
    }
    if len(sources) == 1 and ray is None:
        from spvnas_ros.cli.one_source import label

        if processes is not None:
            raise typer.BadParameter("--processes is for several sources, and there is one")
        raise typer.Exit(label(sources[0], out, options))
    from spvnas_ros.cli.fleet import label_fleet

    raise typer.Exit(label_fleet(sources, out, options, processes=processes, ray=ray))


@readable_errors
def replay(
    bag: Annotated[
        Path, typer.Argument(metavar="BAG", help="A recording: a rosbag2 folder, .mcap, .db3, .bag, .pcap or .osf.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for report.json.")],
    weights: WeightsOption = "default",
    rate: Annotated[float, typer.Option(help="Times as fast as recorded.")] = 1.0,
    truth: TruthOption = None,
    label_ids: LabelIdsOption = "auto",
    network_labels: NetworkLabelsOption = False,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    intensity: IntensityOption = "auto",
    intensity_field: IntensityFieldOption = None,
    origin: OriginOption = None,
    mount: MountOption = None,
    topic: TopicOption = None,
    boxes: Annotated[
        bool, typer.Option("--boxes/--no-boxes", help="Listen to objects, too, where the weights find any.")
    ] = True,
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Play a bag through the live node over ROS, at the bag's own rate: latency, drops, age of the labels, scores."""
    if not 0 < rate < float("inf"):
        raise typer.BadParameter("--rate is a number above 0")
    where = chosen_truth(truth, label_ids, network_labels)
    from spvnas_ros.ros.live.available import need_ros

    need_ros("replaying a bag through the node")
    from spvnas_ros.cli.replay import ReplayOptions, run

    sensor = (intensity, intensity_field, origin, mount)
    options = ReplayOptions(bag, weights, out, rate, topic, where, device, engine, *sensor, quiet, boxes, precision)
    raise typer.Exit(run(options, force=force))


@readable_errors
def view(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BAG|DIR",
            help="A recording, a scan, a folder of scans (a SemanticKITTI sequence), or a folder of `spvnas segment`.",
        ),
    ],
    weights: OptionalWeightsOption = None,
    labels: Annotated[
        Path | None, typer.Option(help="A folder of .label files, where they do not lie beside the scans.")
    ] = None,
    labels_field: Annotated[
        str | None, typer.Option(help="The field of a bag's clouds with the labels; default `label`.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD|DIR",
            help="Compare the labels with this truth: a field of the clouds, or a folder of .label files.",
            show_default="the run's; with --weights or --labels the labels beside the frames",
        ),
    ] = None,
    label_map: Annotated[
        str | None,
        typer.Option(
            help="What raw ids of labels mean: semantic-kitti, mit-han-lab or nuscenes.",
            show_default="the run's or the network's own, else semantic-kitti",
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            metavar="DETECTOR|DIR|TOPIC",
            help="Show boxes: those that this detector finds, those in this folder of `spvnas segment`, or those of "
            "this topic of the bag.",
            show_default="what the weights find, else what the run or the bag has",
        ),
    ] = None,
    palette: PaletteOption = "spvnas",
    topic: TopicOption = None,
    columns: ColumnsOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to serve at. Whoever can reach it can see and control the viewer.")
    ] = "127.0.0.1",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    intensity: IntensityOption = "auto",
    intensity_field: IntensityFieldOption = None,
    origin: OriginOption = None,
    mount: MountOption = None,
    quiet: QuietOption = False,
) -> None:
    """Look at a recording in the browser, in class colours; the page is served here and fetches nothing elsewhere."""
    from spvnas_ros.viewer.command import run

    status = run(
        source,
        weights,
        labels=labels,
        labels_field=labels_field,
        truth=truth,
        label_map=label_map,
        palette=palette,
        topic=topic,
        host=host,
        port=port,
        device=device,
        engine=engine,
        precision=precision,
        intensity=intensity,
        intensity_field=intensity_field,
        origin=origin,
        mount=mount,
        quiet=quiet,
        columns=columns,
        boxes=boxes,
    )
    raise typer.Exit(status)


@readable_errors
def doctor(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BAG|/TOPIC",
            help="A recording, a scan or a folder of scans; or a live topic: a name with a slash in front that is no "
            "file's (needs ROS 2).",
        ),
    ],
    weights: OptionalWeightsOption = None,
    frames: Annotated[int, typer.Option(min=1, help="How many clouds to label with --weights.")] = 5,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    intensity: Annotated[str, typer.Option(help=f"The scale to check: {SCALES}")] = "auto",
    intensity_field: IntensityFieldOption = None,
    origin: OriginOption = None,
    mount: MountOption = None,
    topic: TopicOption = None,
    columns: ColumnsOption = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to listen to a live topic.")] = 5.0,
) -> None:
    """Look at clouds and say what fits the networks and what does not, with advice. Status 1 if something is bad.

    Of a live topic also QoS, transport and whether clouds are lost on the way.
    """
    live = source.is_absolute() and not source.exists()
    if live:
        from spvnas_ros.ros.live.available import need_ros

        need_ros(f"there is no file {source}; looking at a live topic")
    from spvnas_ros.doctor import Looking, run

    looking = Looking(weights, frames, device, engine, intensity, intensity_field, origin, mount, precision)
    if not live:
        raise typer.Exit(run(source, looking, topic=topic, columns=columns))
    from spvnas_ros.ros.live import topic_doctor

    raise typer.Exit(topic_doctor.run(str(source), looking, seconds=seconds))
