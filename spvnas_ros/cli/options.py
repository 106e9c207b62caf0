"""What several commands share: options, and how errors are shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spvnas_ros.offline.datasets import LabelField

WEIGHTS = "A .safetensors file, a fetched model's name, or `default`, the package's own network."
SCALES = "auto, unit, u8, u16, none or the value that stands for 1."

WeightsArgument = Annotated[str, typer.Argument(help=WEIGHTS)]
WeightsOption = Annotated[str, typer.Option("-w", "--weights", help=WEIGHTS)]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or torch; or an installed spconv, spconv-triton, torchsparse.")
]
IntensityOption = Annotated[str, typer.Option(help=f"The sensor's scale: {SCALES}")]
TopicOption = Annotated[str | None, typer.Option(help="The clouds' topic, where a bag has several.")]
LabelIdsOption = Annotated[
    str,
    typer.Option(
        help="What a bag's label field holds: raw (SemanticKITTI ids), class (indices, 255 = none), or auto: class "
        "where all numbers of the bag are classes or 255."
    ),
]
NetworkLabelsOption = Annotated[
    bool,
    typer.Option(
        "--network-labels",
        help="Take a field that a network wrote (there is confidence beside it) for the truth all the same.",
    ),
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder; default $SPVNAS_CACHE, else ~/.cache/spvnas_ros.")
]


def label_field(name: str | None, ids: str, network: bool) -> LabelField | None:
    """The label field these options choose; None where they choose nothing. Raises LabelFieldError for other ids."""
    if name is None and ids == "auto" and not network:
        return None
    from spvnas_ros.offline.datasets import LabelField

    return LabelField(ids=ids, network=network) if name is None else LabelField(name, ids, network)


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
