"""What several commands share: options and arguments, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spvnas_ros.offline.datasets import LabelField

WEIGHTS = "A .safetensors file, a fetched model's name, or `default`, the package's own network."
SCALES = "auto, unit, u8, u12, u16, db (decibels), none or the value that stands for 1."

WeightsOption = Annotated[str, typer.Option("-w", "--weights", help=WEIGHTS)]
OptionalWeightsOption = Annotated[
    str | None, typer.Option("-w", "--weights", help=f"Label with these weights, too. {WEIGHTS}", show_default="none")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or torch; or an installed spconv, spconv-triton, torchsparse.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="Of features and weights: auto, fp32, int16 or int8 (CPU), fp16 or bf16 (CUDA).")
]
IntensityOption = Annotated[str, typer.Option(help=f"The sensor's scale: {SCALES}")]
IntensityFieldOption = Annotated[
    str | None, typer.Option(help="The field that holds the intensity; default: a known name, calibrated ones first.")
]
OriginOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|X,Y,Z", help="The sensor's place in the clouds' frame, metres; auto finds it in each cloud."
    ),
]
MountOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|z=,roll=,pitch=,yaw=",
        help="Height of the clouds' origin above the ground, metres, and angles, degrees; auto finds the ground.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Say nothing about clouds that do not fit the network.")]
PaletteOption = Annotated[
    str,
    typer.Option(
        help="Colours of SemanticKITTI's classes: spvnas (all can be told apart) or semantic-kitti (its own). "
        "Weights with colours of their own keep them."
    ),
]
BoxesOption = Annotated[
    str | None,
    typer.Option(
        "--boxes",
        metavar="DETECTOR",
        help="Find objects, too: a detector's .safetensors file or a fetched one's name. Boxes go beside the labels.",
        show_default="none",
    ),
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        min=0,
        max=1,
        help="Least score of a box, with --boxes or weights that find boxes.",
        show_default="the network's own",
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="x,y,z,...",
        help="What the numbers of a point are, for .bin, .npy and text that do not say it: x,y,z,intensity,time, or "
        "with types x:float64,y,z,intensity:uint8.",
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="Labels of scans: label (.label files), npy (class and confidence), same (the scans themselves with label "
        "and confidence in each point), auto (.label, and the scans where their format has fields).",
    ),
]
ClassificationOption = Annotated[
    str,
    typer.Option(
        metavar="asprs",
        help="Also set the classification of LAS points: ground, road surface, building, high vegetation, else "
        "unclassified.",
        show_default="as it came",
    ),
]
TileOption = Annotated[
    str,
    typer.Option(
        metavar="auto|off|METRES",
        help="Label large scans and maps tile by tile, with bounded memory; METRES cuts every scan, into tiles that "
        "wide.",
    ),
]
TopicOption = Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")]
TruthOption = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD|DIR",
        help="Score the labels against this truth: a field of the clouds, or a folder of SemanticKITTI's .label files.",
    ),
]
LabelIdsOption = Annotated[
    str,
    typer.Option(
        help="What a label field holds: raw (SemanticKITTI ids), class (indices, 255 = none), or auto: class "
        "where all numbers of the recording are classes or 255."
    ),
]
NetworkLabelsOption = Annotated[
    bool,
    typer.Option(
        "--network-labels",
        help="Take a field that a network wrote (there is confidence beside it) for the truth all the same.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Start again, and replace the results of an earlier run.")]
ReplaceOption = Annotated[bool, typer.Option("--force", help="Replace a file of that name.")]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", min=1, help="Worker processes.", show_default="one for each processor")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster: its address, auto for the one this machine belongs to, local for a new one "
        "here. Files must lie at the same path on all its machines.",
    ),
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder; default $SPVNAS_CACHE, else ~/.cache/spvnas_ros.")
]


def label_field(name: str | None, ids: str, network: bool) -> LabelField | None:
    """Returns the label field these options choose; None where they choose nothing.

    Raises LabelFieldError for other ids.
    """
    if name is None and ids == "auto" and not network:
        return None
    from spvnas_ros.offline.datasets import LabelField

    return LabelField(ids=ids, network=network) if name is None else LabelField(name, ids, network)


def chosen_truth(truth: str | None, ids: str, network: bool) -> LabelField | Path | None:
    """Returns the truth these options choose: a folder where there is one of that name, else a field of the clouds.

    Raises BadParameter where there is no field that the other options could speak of, LabelFieldError for other ids.
    """
    folder = Path(truth) if truth is not None else None
    is_field = truth is not None and not (folder and folder.is_dir())
    if (ids != "auto" or network) and not is_field:
        raise typer.BadParameter("--label-ids and --network-labels speak of a field: they go with --truth FIELD")
    if folder is None:
        return None
    if not is_field or folder.name != truth:  # what has a folder in its name was meant as one
        return folder
    return label_field(truth, ids, network)
