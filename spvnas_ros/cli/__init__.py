"""The `spvnas` command: one file for each group of commands.

Every command imports what it needs when it runs, so that `spvnas --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from spvnas_ros import __version__
from spvnas_ros.cli.errors import debugging
from spvnas_ros.cli.recording_commands import doctor, replay, segment, view
from spvnas_ros.cli.search_commands import search
from spvnas_ros.cli.training_commands import adapt, bench, calibrate, evaluate, simulate, train
from spvnas_ros.cli.weights_commands import blend, import_, inspect, zoo

app = typer.Typer(
    name="spvnas",
    help="Label LiDAR clouds with sparse point-voxel networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("import")(import_)
for command in (
    *(segment, replay, view, evaluate, train, adapt, calibrate, search),
    *(doctor, simulate, inspect, blend, bench),
):
    app.command()(command)
app.add_typer(zoo, name="zoo")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spvnas {__version__}")
        raise typer.Exit


@app.callback()
def _for_all_commands(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of any error.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Label LiDAR clouds with sparse point-voxel networks."""
    debugging.set(debug)


def main() -> None:
    """Runs the `spvnas` console script."""
    app()
