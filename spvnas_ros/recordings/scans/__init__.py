"""Scans from files: .bin (KITTI), .npy, .pcd and .ply, folders of them, and bags as one more source of frames."""

from __future__ import annotations

from spvnas_ros.recordings.scans.read import SUFFIXES, read_scan, scan_files
from spvnas_ros.recordings.scans.records import Record, ScanError
from spvnas_ros.recordings.scans.source import Cloud, Frame, Source, open_source

__all__ = ["SUFFIXES", "Cloud", "Frame", "Record", "ScanError", "Source", "open_source", "read_scan", "scan_files"]
