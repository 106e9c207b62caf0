"""The `spvnas` command. Every command imports what it needs when it runs, so that `spvnas --help` answers at once."""

from __future__ import annotations

import typer

from spvnas_ros.cli.recording_commands import bag, doctor, segment, view
from spvnas_ros.cli.training_commands import bench, evaluate, simulate, train
from spvnas_ros.cli.weights_commands import blend, import_, inspect, zoo

app = typer.Typer(
    name="spvnas",
    help="Label LiDAR clouds with sparse point-voxel networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("import")(import_)
for command in (segment, bag, view, evaluate, train, doctor, simulate, inspect, blend, bench):
    app.command()(command)
app.add_typer(zoo, name="zoo")


def main() -> None:
    """Entry point of the `spvnas` console script."""
    app()
