"""Reads scan files of every format (docs/formats.md), folders of them, and bags, all as sequences of frames. The
commands, the viewer, the doctor, the benchmarks and the offline rooms call `open_source` or `read_scan`.
"""

from __future__ import annotations

from spvnas_ros.recordings.scans.read import SUFFIXES, frames_of, kind_of, read_record, read_scan, scan_files
from spvnas_ros.recordings.scans.records import Record, ScanError
from spvnas_ros.recordings.scans.source import Cloud, Frame, Source, open_source

__all__ = [
    "SUFFIXES",
    "Cloud",
    "Frame",
    "Record",
    "ScanError",
    "Source",
    "frames_of",
    "kind_of",
    "open_source",
    "read_record",
    "read_scan",
    "scan_files",
]
