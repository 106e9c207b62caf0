"""Runs the demo from the command line: python -m spvnas_ros.demo [BAG] [--weights FILE] [--out runs/demo]"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from spvnas_ros.errors import UserError
from spvnas_ros.ros.live.available import RosMissingError, need_ros

_INTERRUPTED = 130
"""Exit status after SIGINT, the same as in a shell."""


def main(args: list[str] | None = None) -> int:
    """Parses the command line and runs the demo.

    Returns the exit status: 0, 1 where something could not be shown, 130 after SIGINT or SIGTERM.
    """
    given = _parser().parse_args(args)
    try:
        need_ros("the demo")
    except RosMissingError as error:
        return _fail(error)
    from spvnas_ros.demo.show import Options, show
    from spvnas_ros.ros.process.lifetime import StartError, StopRequested, ros_process
    from spvnas_ros.ros.replay.exchange import ExchangeError

    # Clouds stay on this machine and off the local network, unless the user asks for more.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        with ros_process([]):
            summary = show(Options(**vars(given)), _say)
    except StopRequested:
        return _INTERRUPTED
    except (UserError, OSError, ExchangeError, StartError) as error:
        return _fail(error)
    return 1 if summary.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="A drive through the real node, and all it publishes.")
    parser.add_argument("bag", type=Path, nargs="?", help="rosbag2 folder, .mcap or .db3 file; default: simulate one")
    parser.add_argument("--weights", help="checkpoint, or the name of a fetched model; default: the one that ships")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for what comes out")
    parser.add_argument("--topic", help="which clouds, where the bag has several topics of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--intensity", default="auto", help="the sensor's intensity scale, see the node's parameter")
    parser.add_argument("--sensor", default="hdl64", help="which one to simulate (spvnas simulate --help lists them)")
    parser.add_argument("--clouds", type=int, default=10, help="how many to simulate")
    return parser


def _say(subject: str, text: str) -> None:
    print(f"{subject:<13} {text}", flush=True)


def _fail(error: Exception) -> int:
    print(f"demo: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
