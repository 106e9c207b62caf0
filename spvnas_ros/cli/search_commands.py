"""The command that searches for networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spvnas_ros.cli.errors import readable_errors
from spvnas_ros.cli.options import ProcessesOption, RayOption
from spvnas_ros.errors import UserError


@readable_errors
def search(
    config: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as config/search/sim_tiny.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Values that replace the recipe's, such as 'limits=[{milliseconds: 50}]' or strategy.kind=random.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the search.", show_default="runs/search/NAME")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in the folder, if there is one.")
    ] = False,
    processes: ProcessesOption = None,
    ray: RayOption = None,
    check_latency: Annotated[
        bool,
        typer.Option(
            "--check-latency",
            help="Search nothing: measure the layers, predict the frame times of 30 random networks, measure those, "
            "too, and print both with their rank correlation. Status 1: it is less than 0.95.",
        ),
    ] = False,
    export: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Search nothing: write network N (line N of candidates.jsonl) of the search in the folder as "
            "candidate_N.safetensors, with the supernet's weights. May be given several times.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Find the best networks within limits of MACs, parameters or milliseconds among a supernet's subnets (3D-NAS).

    The folder gets found_1.safetensors and on, which every command takes as --weights, every network that was tried,
    and the front as a picture. Interrupted or killed, it goes on with --resume.
    """
    try:
        from spvnas_ros.offline.search.command import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("spvnas_ros"):
            raise
        package = (error.name or "").split(".")[0]
        raise UserError(f"searching needs {package}; install it: pip install 'spvnas_ros[train]'") from error
    if export and check_latency:
        raise typer.BadParameter("--export and --check-latency do not go together: each does something instead")
    status = run(
        config,
        overrides or [],
        out,
        resume=resume,
        processes=processes,
        ray=ray,
        check_latency=check_latency,
        export=export or (),
    )
    raise typer.Exit(status)
