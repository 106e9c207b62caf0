"""Commands on recordings: label them, score a bag, look at them, examine them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spvnas_ros.cli.options import (
    SCALES,
    DeviceOption,
    EngineOption,
    IntensityOption,
    LabelIdsOption,
    NetworkLabelsOption,
    TopicOption,
    WeightsOption,
    label_field,
    readable_errors,
)


@readable_errors()
def segment(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A .bin, .npy, .pcd or .ply scan, a folder of them, or a rosbag2.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for labels or bag, picture and summary.")],
    weights: WeightsOption = "default",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    intensity: IntensityOption = "auto",
    topic: TopicOption = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also save the probabilities of all classes.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the results of an earlier run from the folder first.")
    ] = False,
) -> None:
    """Label scans or a bag: .label files or a new bag, and a picture of the first frame."""
    from spvnas_ros.segment.command import run

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


@readable_errors()
def bag(
    source: Annotated[Path, typer.Argument(metavar="BAG", help="A rosbag2: its folder, or an .mcap or .db3 file.")],
    weights: WeightsOption,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the labelled bag, report and picture.")],
    labels_field: Annotated[str | None, typer.Option(help="The truth: a field of the clouds.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The truth: a folder of SemanticKITTI's .label files, one a cloud, in order.")
    ] = None,
    label_ids: LabelIdsOption = "auto",
    network_labels: NetworkLabelsOption = False,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    intensity: IntensityOption = "auto",
    topic: TopicOption = None,
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
    field = label_field(labels_field, label_ids, network_labels)
    if field and not labels_field:
        raise typer.BadParameter("--label-ids and --network-labels go with --labels-field")
    if rate is not None and not (realtime and 0 < rate < float("inf")):
        raise typer.BadParameter("--rate is a number above 0, and goes with --realtime")
    truth = field or labels
    if realtime:
        from spvnas_ros.ros.live.available import need_ros

        need_ros("--realtime")
        from spvnas_ros.cli.replay import RealtimeOptions
        from spvnas_ros.cli.replay import run as play

        options = RealtimeOptions(source, weights, out, rate or 1.0, topic, truth, device, engine, intensity)
        raise typer.Exit(play(options, force=force))
    from spvnas_ros.offline.bag_evaluation import run

    status = run(
        source,
        weights,
        out,
        truth=truth,
        device=device,
        engine=engine,
        intensity=intensity,
        topic=topic,
        force=force,
    )
    raise typer.Exit(status)


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
    topic: TopicOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to serve at. Whoever can reach it can see and control the viewer.")
    ] = "127.0.0.1",
    device: DeviceOption = "auto",
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
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    intensity: Annotated[str, typer.Option(help=f"The scale to check: {SCALES}")] = "auto",
    topic: TopicOption = None,
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

    looking = Looking(weights, frames, device, engine, intensity)
    if not live:
        raise typer.Exit(run(source, looking, topic=topic))
    from spvnas_ros.ros.live import topic_doctor

    raise typer.Exit(topic_doctor.run(str(source), looking, seconds=seconds))
