"""The `spvnas` command. Every command imports what it needs when it runs, so that `spvnas --help` answers at once."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="spvnas",
    help="Label LiDAR clouds with sparse point-voxel networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the `spvnas` console script."""
    app()


if __name__ == "__main__":
    main()
