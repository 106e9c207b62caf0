"""Look at clouds before the network does, and say what fits and what does not: the command `spvnas doctor`."""

from __future__ import annotations

from spvnas_ros.doctor.checks import examine
from spvnas_ros.doctor.command import Looking, TopicError, report, run
from spvnas_ros.doctor.finding import Finding
from spvnas_ros.doctor.observe import Clouds, observe
from spvnas_ros.doctor.stream_checks import Timing

__all__ = ["Clouds", "Finding", "Looking", "Timing", "TopicError", "examine", "observe", "report", "run"]
