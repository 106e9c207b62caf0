"""The exchange of frames between host and device: pinned staging buffers and, on CUDA, one captured graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spvnas_ros.engine.cuda.launches import LABELS, Frame, Network, Status, Wanted
from spvnas_ros.frame import Boxes
from spvnas_ros.kernels.cuda.geometry import Capacity
from spvnas_ros.kernels.cuda.launch import compiling_together, only_compile

logger = logging.getLogger(__name__)

_unfinished: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture broke off. They are kept for good, because torch's allocator goes on asking them which streams
they capture."""

Capture = Callable[[Frame, Wanted, Any], Callable[[], None]]
"""A function that returns the function which runs a frame as a whole, for what is wanted of it, see `capture_graph`. It
raises RuntimeError where that cannot be made."""


@dataclass(frozen=True)
class Answer:
    """The answer to a scan.

    labels uint8 and confidence float32 `[N]` are views of a buffer that the next scan overwrites. They mean nothing
    where no labels were wanted.
    """

    status: Status
    labels: Tensor
    confidence: Tensor


def capture_graph(frame: Frame, wanted: Wanted, pool: Any = None) -> Callable[[], None]:
    """Captures all launches of a frame as one CUDA graph.

    Returns the function that replays the graph on the current stream.

    pool: of the memory for what a frame needs for a moment. Graphs that are never replayed at the same time share it
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(frame.network.device)  # type: ignore[no-untyped-call]
    # The outer context restores the stream in any case; the inner one does not do so where the capture fails.
    # Other threads may use the device meanwhile. Their calls do not disturb this capture ("thread_local").
    try:
        with (
            torch.cuda.stream(stream),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            frame.run(wanted)
    except BaseException:
        _unfinished.append(graph)
        raise
    return graph.replay


class Session:
    """A session for scans that fit a capacity: one copy to the device, the frame, one copy back.

    Labels alone, boxes alone and both are three frames in the same buffers, each with a graph of its own. What is
    wanted first is made ready at once, the others when they are first wanted.

    capture: turns the frame's launches into one; where that fails they are made one by one, and a warning says so
    wanted:  what is made ready at once
    """

    def __init__(self, network: Network, capacity: Capacity, capture: Capture | None, wanted: Wanted = LABELS) -> None:
        self._compile(network, capacity, wanted)
        self.frame = Frame(network, capacity)
        on_device = network.device.type == "cuda"
        self._outgoing = torch.zeros(self.frame.input.shape, dtype=torch.int32, pin_memory=on_device)
        self._incoming = torch.zeros(self.frame.output.shape, dtype=torch.int32, pin_memory=on_device)
        self._done = torch.cuda.Event() if on_device else None  # type: ignore[no-untyped-call]
        self._capture = capture
        self._pool = torch.cuda.graph_pool_handle() if on_device else None
        self._runs = {wanted: self._ready(wanted)}

    @property
    def captured(self) -> bool:
        """Whether the launches of what was made ready became one."""
        return self._capture is not None

    def label(self, points: Tensor, wanted: Wanted = LABELS) -> Answer:
        """Runs a scan float32 `[N, C]` (on the CPU, N at most the capacity) and waits for the answer."""
        if wanted not in self._runs:
            self._compile(self.frame.network, self.frame.capacity, wanted)
            self._runs[wanted] = self._ready(wanted)
        used = self.frame.write(self._outgoing, points)
        self.frame.input[: len(used)].copy_(used, non_blocking=True)
        self._runs[wanted]()
        self.frame.told(wanted, self._incoming).copy_(self.frame.told(wanted, self.frame.output), non_blocking=True)
        if self._done is not None:
            self._done.record()
            self._done.synchronize()  # lets other threads of the process run meanwhile
        return Answer(*self.frame.read(self._incoming, len(points)))

    def boxes(self) -> Boxes:
        """Returns the boxes in the last scan, of which boxes must have been wanted."""
        return self.frame.read_boxes(self._incoming)

    def probabilities(self, number: int) -> Tensor:
        """Returns the softmax probabilities float32 `[number, classes]` of the last scan's points, on the CPU."""
        rows = self.frame.geometry.inverse[:number].long()
        return self.frame.logits[rows].softmax(dim=1).cpu()

    @staticmethod
    def _compile(network: Network, capacity: Capacity, wanted: Wanted) -> None:
        with compiling_together():
            Frame(network, capacity, only_compile).run(wanted)

    def _ready(self, wanted: Wanted) -> Callable[[], None]:
        """Returns the function that runs the frame as a whole.

        Where the frame cannot be captured, the function makes its launches one by one.
        """

        def one_by_one() -> None:
            self.frame.run(wanted)

        if self._capture is None:
            return one_by_one
        one_by_one()  # a kernel's first launch loads it, and loading is not allowed in a capture
        self._wait()
        try:
            return self._capture(self.frame, wanted, self._pool)
        except RuntimeError as error:
            self._wait()  # raises where the device itself has failed, which is not a failed capture
            cause = error.__context__ or error  # ending the broken capture raises a second error
            logger.warning(
                "the frame's launches cannot be captured as a CUDA graph (%s: %s) and are made one by one, which costs "
                "the host time in every frame", type(cause).__name__, cause,
            )  # fmt: skip
            self._capture = None  # a capture that failed is not tried again
            return one_by_one

    def _wait(self) -> None:
        if self.frame.network.device.type == "cuda":
            torch.cuda.synchronize(self.frame.network.device)


def measure(network: Network, points: Tensor) -> Status:
    """Returns the status of a scan, which holds its number of voxels, without making room for them.

    Waits for the device.
    """
    frame = Frame(network, Capacity.with_room(len(points), (0,) * len(network.tile_rows), room=1))
    used = frame.write(torch.zeros(frame.input.shape, dtype=torch.int32), points)
    frame.input[: len(used)].copy_(used)
    frame.find_voxels()
    return frame.read(frame.output.cpu(), 0)[0]
