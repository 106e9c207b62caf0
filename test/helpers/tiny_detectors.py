"""Detectors that nobody trained, small enough for a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.nets.box_spec import Selection
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, save_detector

FOUND = 40
"""Boxes that come out of a cloud, at most."""
NAMES = ("Car", "Pedestrian", "Cyclist")


def tiny_detector(seed: int = 0) -> Second:
    """Its boxes differ from cloud to cloud, and are about as large as its anchors."""
    torch.manual_seed(seed)
    spec = DetectorSpec.second(
        "openpcdet", 2, point_range=(-25.6, -25.6, -3, 25.6, 25.6, 1), voxel_size=(0.2, 0.2, 0.16)
    )
    net = Second(replace(spec, head=replace(spec.head, selection=Selection(0.0, 1000, 0.01, False, FOUND))))
    # Without the statistics of some cloud, features fade on their way.
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    cloud = torch.from_numpy(street_scan(9, 16, 200)[0])
    with torch.no_grad():
        net.train()(*net.voxels([cloud]), 1)
        net.head.classes.weight.normal_(std=0.05)
        net.head.boxes.weight.normal_(std=0.003)
        net.head.directions.weight.normal_()
    return net.eval()


def write_detector(path: Path, seed: int = 0, **facts: object) -> Path:
    """Writes it with these facts about it."""
    net = tiny_detector(seed)
    save_detector(path, net, replace(DetectorFacts(net.spec, name="tiny-second", trained=False), **facts))
    return path
