"""The CPU engine's answers to a few points: in the process that asks or, run as a program, in one of its own."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import torch

from spvnas_ros import Perception
from spvnas_ros.errors import UserError
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet


def answers(precision: str = "fp32") -> list[float]:
    """The sums of a small network's scores."""
    torch.manual_seed(0)
    perception = Perception.from_net(PointVoxelUNet(NetSpec.spvcnn(4)), engine="cpu", precision=precision)
    points = np.random.default_rng(0).uniform(-5, 5, (2000, 4)).astype(np.float32)
    scores = perception(points, scores=True).scores
    assert scores is not None
    return [float(value) for value in scores.sum(axis=0).round(3)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    print(json.dumps(answers(*sys.argv[1:2])))
    for refused in sys.argv[2:]:
        try:
            answers(refused)
        except UserError as error:
            print(error, file=sys.stderr)
