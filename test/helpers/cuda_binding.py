"""Every launch of a frame and of a training step, put together by Triton as for a GPU, but not compiled.

A process of its own: where the interpreter is on, Triton does not look at options and types. Prints kernels' names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from spvnas_ros.engine.cuda.launches import Frame, Network, Wanted
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.kernels.cuda import launch
from spvnas_ros.kernels.cuda.geometry import Capacity
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.spec import NUM_STAGES, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import conv3d
from spvnas_ros.sparse import on_cuda as training


class NoDriver:
    """What Triton asks a driver for before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def main() -> None:
    found: set[str] = set()

    def skip(*, fn: Any, **_: Any) -> bool:
        found.add(fn.name)
        return True

    driver.set_active(NoDriver())
    knobs.runtime.jit_cache_hook = skip
    classes = (BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35),)
    branch = BoxBranchSpec.around(0.05, classes, width=4, reach=3.2)
    net = PointVoxelUNet(replace(NetSpec.spvcnn(4), boxes=branch)).eval()
    network = Network(
        build_plan(net), 0.05, "fp16", torch.device("cpu"), capability=90, multiprocessors=132, branch=net.boxes
    )
    with launch.compiling_together(), torch.inference_mode():
        Frame(network, Capacity(1024, (1024,) * 5), launch.only_compile).run(Wanted(boxes=True))
    training.run = launch.only_compile
    levels = training.build_training_levels(torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6], [0, 4, 5, 7]]), NUM_STAGES)
    feats, kernel = torch.randn(3, 8, requires_grad=True), torch.randn(27, 8, 8, requires_grad=True)
    conv3d(feats, kernel, levels.neighbours[0]).sum().backward()
    print(json.dumps(sorted(found)))


if __name__ == "__main__":
    main()
