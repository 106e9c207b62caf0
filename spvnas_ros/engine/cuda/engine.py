"""`CudaEngine`: decides capacity and precision, and labels every scan that can be keyed and finds boxes in it."""

from __future__ import annotations

import copy
import logging
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spvnas_ros.engine.cuda.launches import LEVELS, Frame, Network, Status, Wanted
from spvnas_ros.engine.cuda.packed_weights import HalfRangeError, half_range_error
from spvnas_ros.engine.cuda.session import Answer, Session, capture_graph, measure
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.kernels.cuda.blocks import TILE_ROWS, Precision
from spvnas_ros.kernels.cuda.geometry import Capacity
from spvnas_ros.kernels.grid import MAX_BATCH, MAX_EXTENT, key_range_error
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import quantize

logger = logging.getLogger(__name__)

_FARTHEST = 2.0**31
"""The distance from the origin, in voxels, from which `quantize` refuses a cloud."""


class CudaEngine:
    """An engine that runs a network on a CUDA device with Triton kernels.

    For tests it also runs on the CPU, slowly, in Triton's interpreter. The first scan fixes the capacity. A larger scan
    makes the capacity grow, once, and is labelled all the same.

    precision: of features and weights; sums are float32. "auto" is fp16, until values turn up that it cannot hold. From
               then on it is fp32, and a warning names the layers. "fp16" raises HalfRangeError there.
    sample:    a scan that is labelled at once, as the first. Values that half precision cannot hold are found here and
               not in a frame, and the frame is compiled and captured. Without a sample the kernels are only compiled
               and tried.
    tile_rows: output rows per tile at each level
    """

    name = "cuda"

    def __init__(
        self,
        net: PointVoxelUNet,
        voxel_size: float,
        device: torch.device | str = "cuda",
        precision: Precision | Literal["auto"] = "auto",
        sample: Points | None = None,
        tile_rows: tuple[int, ...] = TILE_ROWS,
    ) -> None:
        place = torch.device(device)
        if place.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise UserError(f"engine 'cuda' runs on CUDA devices, not on {place}; use engine 'cpu' or 'torch' there")
        self.device = str(place)
        self.in_channels = net.spec.in_channels
        self.finds_boxes = net.spec.boxes is not None
        self.capacity: Capacity | None = None
        if str(place) == "cuda":
            place = torch.device("cuda", torch.cuda.current_device())  # every thread has its own current device
        self._place, self._voxel_size, self._tile_rows = place, voxel_size, tile_rows
        self._plan = build_plan(net)
        self._branch = None if net.boxes is None else copy.deepcopy(net.boxes).to("cpu", torch.float32).eval()
        self._falls_back = precision == "auto"
        self._session: Session | None = None
        self._capture = capture_graph if place.type == "cuda" else None
        self._lock = threading.Lock()
        with self._on_device():
            self._network = self._first_network("fp16" if precision == "auto" else precision)
        logger.info("compiling the CUDA kernels for %s, or loading them from Triton's cache", self.device)
        if sample is not None and len(sample):
            self.segment(sample, scores=False, boxes=True)
        else:
            self._try_kernels()

    @property
    def precision(self) -> Precision:
        """The precision in which features and weights are stored."""
        return self._network.precision

    def segment(self, points: Points, scores: bool, boxes: bool = False, labels: bool = True) -> Segmentation:
        """Labels a cloud of finite points, as `Engine.segment` says. Raises HalfRangeError as the class says."""
        wanted = Wanted(labels, boxes and self._branch is not None)
        if not wanted.labels and not wanted.boxes:
            return Segmentation.unlabelled(len(points))
        if len(points) == 0:
            none = np.zeros((0, self._plan.num_classes), np.float32) if scores else None
            nothing = Boxes.none() if wanted.boxes else None
            return Segmentation(np.zeros(0, np.uint8), np.zeros(0, np.float32), none, boxes=nothing)
        with self._lock, self._on_device(), torch.inference_mode():
            cloud = torch.from_numpy(np.require(points, np.float32, ["C", "W"]))
            while (found := self._attempt(cloud, wanted)) is None:
                pass
            session, answer = found
            objects = session.boxes() if wanted.boxes else None
            if not wanted.labels:
                return Segmentation.unlabelled(len(points), objects)
            probabilities = session.probabilities(len(cloud)).numpy() if scores else None
            return Segmentation(
                answer.labels.numpy().copy(), answer.confidence.numpy().copy(), probabilities, boxes=objects
            )

    def logits(self, coords: npt.NDArray[np.integer], feats: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the class scores float32 `[N, num_classes]` of distinct voxels, as `PointVoxelUNet.forward` does.

        coords: `[N, 4]` (batch, x, y, z); feats: float32 `[N, in_channels]`

        Raises ValueError for other shapes, repeated voxels or more than 512 scans, and KeyRangeError for scans that are
        too large.
        """
        if coords.ndim != 2 or coords.shape[1] != 4 or feats.shape != (len(coords), self.in_channels):
            raise ValueError(
                f"expected coords [N, 4] and feats [N, {self.in_channels}], found {coords.shape} and {feats.shape}"
            )
        if len(coords) == 0:
            return np.zeros((0, self._plan.num_classes), np.float32)
        cells = _checked(torch.from_numpy(coords.astype(np.int64)))
        number = len(cells)
        with self._lock, self._on_device(), torch.inference_mode():
            while True:
                frame = Frame(self._network, Capacity.with_room(number, (number,) * LEVELS, room=1))
                frame.run_voxels(cells, torch.from_numpy(np.asarray(feats, np.float32)))
                status = frame.read(frame.output.cpu(), 0)[0]
                if status.voxels[0] != number:
                    raise ValueError("coords holds the same voxel more than once; quantize the points first")
                if not status.overflows:
                    return frame.logits[frame.geometry.inverse[:number].long()].cpu().numpy()
                self._network = self._wider(list(status.overflows))
                self._session = None

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._place) if self._place.type == "cuda" else nullcontext()

    def _attempt(self, cloud: Tensor, wanted: Wanted) -> tuple[Session, Answer] | None:
        """Runs the cloud in the present session and returns the session and its answer.

        Returns None where the session was too small or its precision too low. The next attempt then makes a new
        session.
        """
        session = self._session_for(cloud, wanted)
        answer = session.label(cloud, wanted)
        self._check_range(answer.status, cloud)
        if not session.frame.capacity.holds(len(cloud), answer.status.voxels):
            self._resize(len(cloud), answer.status)
        elif answer.status.overflows:
            self._network = self._wider(list(answer.status.overflows))
            self._session = None
        else:
            return session, answer
        return None

    def _session_for(self, cloud: Tensor, wanted: Wanted) -> Session:
        """Returns the session. Makes or enlarges it where the number of points alone requires that."""
        if self.capacity is None or len(cloud) > self.capacity.points:
            status = measure(self._network, cloud)
            self._check_range(status, cloud)
            self._resize(len(cloud), status)
        if self._session is None:
            assert self.capacity is not None
            self._session = self._new_session(self.capacity, wanted)
        return self._session

    def _resize(self, number: int, status: Status) -> None:
        """Gives up the session, and sets a capacity that holds `number` points and the voxels that were counted."""
        self._session = None  # its memory is needed
        if self.capacity is None:
            self.capacity = Capacity.with_room(number, status.voxels)
            logger.info("room for %s", self.capacity)
            return
        self.capacity = self.capacity.grown(number, status.voxels)
        logger.warning(
            "a scan of %d points and %s voxels did not fit; room for %s from now on",
            number, "/".join(map(str, status.voxels)), self.capacity,
        )  # fmt: skip

    def _check_range(self, status: Status, cloud: Tensor) -> None:
        """Raises the reference's KeyRangeError for a cloud that cannot be keyed."""
        if not (status.extent < MAX_EXTENT and status.farthest < _FARTHEST):
            quantize(cloud, self._voxel_size)
            raise RuntimeError(f"the device measured an extent that the host does not find: {status}")

    def _first_network(self, precision: Precision) -> Network:
        try:
            return self._build(precision)
        except HalfRangeError as error:
            if not self._falls_back:
                raise
            logger.warning("%s; using fp32", error)
            return self._build("fp32")

    def _build(self, precision: Precision) -> Network:
        if (
            precision == "bf16"
            and self._place.type == "cuda"
            and torch.cuda.get_device_capability(self._place) < (8, 0)
        ):
            raise UserError(f"precision 'bf16' needs compute capability 8.0, which {self._place} has not; use 'fp16'")
        return Network(self._plan, self._voxel_size, precision, self._place, self._tile_rows, branch=self._branch)

    def _wider(self, layers: list[str]) -> Network:
        """Returns the network in fp32, after values that fp16 cannot hold were found in some layers.

        Raises HalfRangeError where fp16 was asked for.
        """
        error = half_range_error(layers)
        if not self._falls_back:
            raise error
        logger.warning("%s; using fp32 from now on, which is slower", error)
        return self._build("fp32")

    def _new_session(self, capacity: Capacity, wanted: Wanted) -> Session:
        session = Session(self._network, capacity, self._capture, wanted)
        if not session.captured:
            self._capture = None  # a capture that failed is not tried again with every growth
        return session

    def _try_kernels(self) -> None:
        """Compiles and launches every kernel on a scan without points, so that its errors are found now."""
        with self._on_device(), torch.inference_mode():
            wanted = Wanted(boxes=self._branch is not None)
            session = self._new_session(Capacity.with_room(0, (0,) * LEVELS), wanted)
            session.label(torch.zeros(0, self.in_channels), wanted)


def _checked(coords: Tensor) -> Tensor:
    """Returns voxels int64 `[N, 4]`, counted from a corner aligned to the coarsest voxel as in `build_levels`.

    Raises KeyRangeError for scans that are too large, and ValueError for batch indices out of range.
    """
    low = coords.amin(0) >> LEVELS - 1 << LEVELS - 1
    low[0] = 0
    extent = int((coords - low)[:, 1:].max()) + 1
    if extent > MAX_EXTENT:
        raise key_range_error(extent)
    batches = int(coords[:, 0].min()), int(coords[:, 0].max())
    if batches[0] < 0 or batches[1] >= MAX_BATCH:
        raise ValueError(f"batch indices must be in 0..{MAX_BATCH - 1}, found {batches[0]}..{batches[1]}")
    return coords - low
