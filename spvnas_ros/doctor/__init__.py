"""Examines clouds before a network labels them, and says what suits the network and what does not. The command `spvnas
doctor` calls `run` for recordings; for a live topic, `ros/live/` records some clouds and calls `report`.
"""

from __future__ import annotations

from spvnas_ros.doctor.checks import examine
from spvnas_ros.doctor.command import Looking, TopicError, report, run
from spvnas_ros.doctor.finding import Finding
from spvnas_ros.doctor.observe import Clouds, observe
from spvnas_ros.doctor.stream_checks import Timing

__all__ = ["Clouds", "Finding", "Looking", "Timing", "TopicError", "examine", "observe", "report", "run"]
