"""The names that OpenPCDet and mmdetection3d give to SECOND's tensors, and the layouts of their sparse kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from spvnas_ros.nets.box_spec import BevBlock
from spvnas_ros.nets.detector_spec import STEPS

_MAX_LAYERS = 16
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class DetectorLayout:
    """The names of one project.

    In the templates `n` is the stage from 1, `b` the block, `j` the layer from 0, and `c` and `m` the places of its
    convolution and its BatchNorm in the block.

    project, convention: of the networks; padded: how many entries of a block stand before its first convolution
    counter:             a tensor of the trainer's own that the project keeps among the network's
    """

    project: str
    convention: str
    stem: str
    stage: str
    out: str
    block: str
    padded: int
    up: str
    head: tuple[str, str, str]
    counter: str = ""

    def names(self) -> dict[str, str]:
        """Returns the project's name of every tensor a detector could have -> its name in `Second`."""
        table: dict[str, str] = {}
        for theirs, ours in self._units().items():
            table |= {f"{theirs[0]}.weight": f"{ours}.conv.{'kernel' if ours.startswith('encoder') else 'weight'}"}
            table |= {f"{theirs[1]}.{part}": f"{ours}.norm.{part}" for part in _NORM}
        for theirs_head, ours in zip(self.head, ("classes", "boxes", "directions"), strict=True):
            table |= {f"{theirs_head}.{part}": f"head.{ours}.{part}" for part in ("weight", "bias")}
        return table

    def _units(self) -> dict[tuple[str, str], str]:
        units = {
            (f"{self.stem}.0", f"{self.stem}.1"): "encoder.stem",
            (f"{self.out}.0", f"{self.out}.1"): "encoder.out",
        }
        for j in range(_MAX_LAYERS):
            for i in range(len(STEPS)):
                layer = f"{self.stage.format(n=i + 1)}.{j}"
                units[f"{layer}.0", f"{layer}.1"] = f"encoder.stages.{i}.layers.{j}"
            for b in range(_MAX_LAYERS):
                block, place = self.block.format(b=b), self.padded + 3 * j
                units[f"{block}.{place}", f"{block}.{place + 1}"] = f"bev.stages.{b}.layers.{j}"
        for b in range(_MAX_LAYERS):
            up = self.up.format(b=b)
            units[f"{up}.0", f"{up}.1"] = f"bev.stages.{b}.up"
        return units


OPENPCDET = DetectorLayout(
    project="open-mmlab/OpenPCDet",
    convention="openpcdet",
    stem="backbone_3d.conv_input",
    stage="backbone_3d.conv{n}",
    out="backbone_3d.conv_out",
    block="backbone_2d.blocks.{b}",
    padded=1,
    up="backbone_2d.deblocks.{b}",
    head=("dense_head.conv_cls", "dense_head.conv_box", "dense_head.conv_dir_cls"),
    counter="global_step",
)

MMDET3D_SECOND = DetectorLayout(
    project="open-mmlab/mmdetection3d",
    convention="mmdet3d",
    stem="middle_encoder.conv_input",
    stage="middle_encoder.encoder_layers.encoder_layer{n}",
    out="middle_encoder.conv_out",
    block="backbone.blocks.{b}",
    padded=0,
    up="neck.deblocks.{b}",
    head=("bbox_head.conv_cls", "bbox_head.conv_reg", "bbox_head.conv_dir_cls"),
)

DETECTOR_LAYOUTS = (OPENPCDET, MMDET3D_SECOND)

KERNELS: Mapping[str, tuple[int, int, int, int, int]] = {
    "spconv 2": (1, 2, 3, 4, 0),
    "spconv 1": (0, 1, 2, 3, 4),
    "spconv 2, native": (0, 1, 2, 4, 3),
}
"""How each library's kernel becomes `[z, y, x, in, out]`: spconv 2 has `[out, z, y, x, in]`, spconv 1 and mmcv have
`[z, y, x, in, out]`, and some builds of spconv 2 have `[z, y, x, out, in]`."""


def fitting(kernels: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns the layouts in which most of the kernels have the shapes `[volume, in, out]` that are expected of them.

    There is none where no kernel has its shape in any. A kernel of equal widths fits several; what decides is one whose
    widths differ.
    """
    fits: dict[str, int] = {}
    for layout, order in KERNELS.items():
        shapes = {key: tuple(value.shape[axis] for axis in order) for key, value in kernels.items() if value.ndim == 5}
        flat = {key: (z * y * x, a, b) for key, (z, y, x, a, b) in shapes.items()}
        fits[layout] = sum(flat.get(key) == expected[key] for key in kernels)
    return [layout for layout, count in fits.items() if count and count == max(fits.values())]


def flat_kernel(kernel: Tensor, layout: str) -> Tensor:
    """Returns a kernel as `[volume, in, out]`, x fastest."""
    ordered = kernel.permute(KERNELS[layout])
    return ordered.reshape(-1, *ordered.shape[3:]).contiguous()


def counted(has: Callable[[int], bool]) -> int:
    """Returns how many of the numbers from 0 on are there, without a gap."""
    return next(i for i in range(_MAX_LAYERS + 1) if not has(i))


def bev_blocks(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[BevBlock]:
    """Yields the blocks over the bird's-eye view whose tensors, by their names in `Second`, have these shapes.

    A block's stride is told by its upsampling, which undoes the strides so far. Raises KeyError for a missing layer.
    """
    so_far = 1
    for b in range(counted(lambda b: f"bev.stages.{b}.layers.0.norm.weight" in shapes)):
        block = f"bev.stages.{b}"
        layers = counted(lambda j, block=block: f"{block}.layers.{j}.norm.weight" in shapes)  # type: ignore[misc]
        upsampling = shapes[f"{block}.up.conv.weight"][-1]
        yield BevBlock(
            shapes[f"{block}.layers.0.norm.weight"][0],
            layers - 1,
            max(1, upsampling // so_far),
            shapes[f"{block}.up.norm.weight"][0],
        )
        so_far = upsampling
