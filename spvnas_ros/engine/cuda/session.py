"""A frame between the host and the device: pinned staging buffers and, on CUDA, one captured graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spvnas_ros.engine.cuda.frame import Frame, Network, Status
from spvnas_ros.engine.cuda.geometry import Capacity


@dataclass(frozen=True)
class Answer:
    """What came back. labels uint8 and confidence float32 `[N]`: views of a buffer that the next scan overwrites."""

    status: Status
    labels: Tensor
    confidence: Tensor


class Session:
    """Labels scans that fit a capacity: one copy to the device, the frame, one copy back."""

    def __init__(self, network: Network, capacity: Capacity) -> None:
        self.frame = Frame(network, capacity)
        pinned = network.device.type == "cuda"
        self._outgoing = torch.zeros(self.frame.input.shape, dtype=torch.int32, pin_memory=pinned)
        self._incoming = torch.zeros(self.frame.output.shape, dtype=torch.int32, pin_memory=pinned)
        self._graph = _capture(self.frame) if network.device.type == "cuda" else None
        self._done = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    def label(self, points: Tensor) -> Answer:
        """Run a scan float32 `[N, C]` (on the CPU, N at most the capacity) and wait for what comes back."""
        used = self.frame.write(self._outgoing, points)
        self.frame.input[: len(used)].copy_(used, non_blocking=True)
        if self._graph is None:
            self.frame.run()
        else:
            self._graph.replay()
        self._incoming.copy_(self.frame.output, non_blocking=True)
        if self._done is not None:
            self._done.record()
            self._done.synchronize()  # lets other threads of the process run meanwhile
        return Answer(*self.frame.read(self._incoming, len(points)))

    def probabilities(self, number: int) -> Tensor:
        """Softmax probabilities float32 `[number, classes]` of the last scan's points, on the CPU."""
        rows = self.frame.geometry.inverse[:number].long()
        return self.frame.logits[rows].softmax(dim=1).cpu()


def measure(network: Network, points: Tensor) -> Status:
    """Find out how many voxels a scan has, without room for them. Waits for the device."""
    frame = Frame(network, Capacity.with_room(len(points), (0,) * len(network.tile_rows), room=1))
    used = frame.write(torch.zeros(frame.input.shape, dtype=torch.int32), points)
    frame.input[: len(used)].copy_(used)
    frame.find_voxels()
    return frame.read(frame.output.cpu(), 0)[0]


def _capture(frame: Frame) -> torch.cuda.CUDAGraph:
    """All launches of a frame as one graph."""
    frame.run()  # a kernel's first launch loads it, which a capture does not allow
    torch.cuda.synchronize(frame.network.device)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile: their calls are no business of this capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        frame.run()
    return graph
