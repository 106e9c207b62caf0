"""`Supernet`: one set of weights for all networks of a design space. A subnet is its first channels and blocks.

Reference: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020, section
4; which channels a subnet takes follows `core/models/semantic_kitti/spvnas.py` in mit-han-lab/spvnas.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec
from spvnas_ros.nets.unet import PointFusion, PointVoxelUNet
from spvnas_ros.sparse.kernel_map import Levels
from spvnas_ros.sparse.modules import Linear
from spvnas_ros.sparse.on_cpu import build_training_levels

Piece = tuple[slice, ...]
Batch = tuple[Tensor, Tensor, Levels | None]
"""Voxels `[N, 4]`, their features `[N, in_channels]`, and the geometry where it is known, as a network takes them."""

_SHELLS = 16
_AFTER_CONCATENATION = re.compile(r"decoder\.(\d+)\.blocks\.0\.(first|projection)\.conv\.kernel")


class _Parts(NamedTuple):
    """What a subnet has of a supernet's tensors, by name.

    parameters: the parts of each that are joined, None for all of it
    buffers:    the part of each, None for all of it
    """

    parameters: dict[str, tuple[Piece, ...] | None]
    buffers: dict[str, Piece | None]


class _Known(NamedTuple):
    """A subnet that ran lately: the network without memory behind it, and its tensors' places."""

    shell: PointVoxelUNet
    parts: _Parts


class Supernet(nn.Module):
    """The weights that all networks of a space share.

    space: whose largest network has these weights
    net:   that network
    adapt: is applied to every network that runs within the supernet, before its first run

    Parameters and statistics of BatchNorm are those of `net`. A subnet has the first channels of every layer and the
    first blocks of every stage; after a decoder's concatenation it has the first channels of either part. Statistics
    are of whichever subnets ran last, so those of a subnet have to be estimated anew before it labels, see
    `re_estimate`.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.net = PointVoxelUNet(space.largest().spec)
        self._widen(space.point_inputs())
        self.adapt: Callable[[nn.Module], None] | None = None
        self._shells: OrderedDict[NetSpec, _Known] = OrderedDict()

    def _widen(self, inputs: Sequence[int]) -> None:
        """Gives fusions input channels for the widest points that meet them in any network of the space. The largest
        network has the first ones of these like every other, so `net` itself is never run.
        """
        for fusion, width in zip(self.net.points, inputs, strict=False):
            if isinstance(fusion, PointFusion) and fusion.linear.in_features < width:
                fusion.linear = Linear(width, fusion.linear.out_features)

    @property
    def spec(self) -> NetSpec:
        """The description of the largest network."""
        return self.net.spec

    def forward(self, spec: NetSpec, coords: Tensor, feats: Tensor, levels: Levels | None = None) -> Tensor:
        """Returns the class scores that the subnet `spec` gives a batch, see `PointVoxelUNet.forward`.

        Gradients reach what the subnet has, and are 0 elsewhere in its layers. In training mode the subnet's share of
        the statistics follows the batch.
        """
        out: Tensor = functional_call(self._shell(spec), self.tensors(spec), (coords, feats, levels))
        return out

    def tensors(self, spec: NetSpec) -> dict[str, Tensor]:
        """Returns a subnet's parameters and statistics by their names in `PointVoxelUNet`.

        Statistics are views. Parameters are contiguous pieces, so that what runs on them is bit by bit what runs on
        those of the exported network.
        """
        parts = self._known(spec).parts
        parameters, buffers = dict(self.net.named_parameters()), dict(self.net.named_buffers())
        cut = {name: _piece(parameters[name], part) for name, part in parts.parameters.items()}
        return cut | {name: buffers[name][part] if part else buffers[name] for name, part in parts.buffers.items()}

    def names(self, spec: NetSpec) -> list[str]:
        """Returns the names of a subnet's parameters."""
        return list(self._known(spec).parts.parameters)

    def _shell(self, spec: NetSpec) -> PointVoxelUNet:
        """Returns the subnet without memory behind it, in this network's mode."""
        return self._known(spec).shell.train(self.training)

    def _known(self, spec: NetSpec) -> _Known:
        known = self._shells.get(spec)
        if known is None:
            shell = _hollow(spec)
            known = _Known(shell, _parts(shell, self.net))
            if self.adapt is not None:
                self.adapt(known.shell)
            self._shells[spec] = known
            while len(self._shells) > _SHELLS:
                self._shells.popitem(last=False)
        self._shells.move_to_end(spec)
        return known

    @torch.no_grad()
    def subnet(self, candidate: Candidate) -> PointVoxelUNet:
        """Returns a network of its own with the weights of a subnet, in evaluation mode.

        Its statistics are the supernet's: estimate them anew before it labels, see `re_estimate`. Raises SpecError
        where the candidate is not of the space.
        """
        self.space.genes(candidate)
        return self.subnet_of(candidate.spec)

    @torch.no_grad()
    def subnet_of(self, spec: NetSpec) -> PointVoxelUNet:
        """Returns what `subnet` does for any network whose layers are no larger than the supernet's."""
        net, own = _hollow(spec), self.tensors(spec)
        state = {name: own[name].detach().clone(memory_format=torch.contiguous_format) for name in net.state_dict()}
        net.load_state_dict(state, assign=True)
        return net.requires_grad_(True).eval()

    def holds(self, spec: NetSpec) -> bool:
        """Tells whether a network's layers are among the supernet's, whatever its space says of their widths."""
        own, theirs = self.net.state_dict(), _hollow(spec).state_dict()
        same = (spec.stem, spec.num_classes, spec.in_channels) == (
            self.net.spec.stem,
            self.net.spec.num_classes,
            self.net.spec.in_channels,
        )
        return same and all(
            name in own and all(a <= b for a, b in zip(part.shape, own[name].shape, strict=True))
            for name, part in theirs.items()
        )

    @torch.no_grad()
    def orders(self) -> dict[str, Tensor]:
        """Returns the order of the output channels of every layer that only the next layers see, largest first: middle
        layers of blocks and transitions.

        A channel's size is the L1 norm of its kernel, as in `re_organize_middle_weights` of mit-han-lab/spvnas. Names
        are those of layers, values int64 `[C]`. The stages' own outputs keep their order, because skips and points see
        them, too.
        """
        found = {}
        for name, kernel in self.net.named_parameters():
            if name.endswith(("first.conv.kernel", "transition.conv.kernel")):
                norms = kernel.abs().sum(dim=tuple(range(kernel.ndim - 1)))
                found[name.removesuffix(".conv.kernel")] = torch.argsort(norms, descending=True, stable=True)
        return found

    @torch.no_grad()
    def reorder(self) -> dict[str, Tensor]:
        """Puts channels into the order of `orders`, so that subnets have the largest, and returns it.

        What the whole network computes stays the same up to the order of sums.
        """
        orders = self.orders()
        state = reordered(self.net.state_dict(), orders)
        self.net.load_state_dict(state)
        return orders


def reordered(tensors: Mapping[str, Tensor], orders: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors with their channels in another order, see `Supernet.orders`.

    tensors: by the names of `PointVoxelUNet`, some or all: parameters, statistics, or what an optimiser keeps of
             parameters, in the parameters' shapes
    """
    found = dict(tensors)
    for layer, order in orders.items():
        stage, _, place = layer.rpartition(".")
        own = [f"{layer}.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        for name in (f"{layer}.conv.kernel", *own):
            if name in found:
                found[name] = found[name].index_select(-1, order)
        readers = (
            [f"{stage}.second"] if place == "first" else [f"{stage}.blocks.0.{k}" for k in ("first", "projection")]
        )
        for name in (f"{reader}.conv.kernel" for reader in readers):
            if name in found:
                rest = torch.arange(len(order), found[name].shape[-2], device=order.device)  # the other part of a cat
                found[name] = found[name].index_select(-2, torch.cat([order, rest]))
    return found


def pieces(name: str, shape: Sequence[int], spec: NetSpec, whole: NetSpec) -> tuple[Piece, ...]:
    """Returns which parts of a supernet's parameter make up a subnet's; several are joined along their input channels.

    name:  of the parameter in `PointVoxelUNet`
    shape: in the subnet
    whole: the supernet
    """
    if match := _AFTER_CONCATENATION.fullmatch(name):
        stage = int(match[1])
        own, all_of_it = spec.decoder[stage].transition, whole.decoder[stage].transition
        before, out = [slice(size) for size in shape[:-2]], slice(shape[-1])
        skip = slice(all_of_it, all_of_it + spec.skip_width(stage))
        return (*before, slice(own), out), (*before, skip, out)
    return (tuple(slice(size) for size in shape),)


class _Cut(Function):
    """Parts of a parameter, joined along the input channels. The gradient is 0 where no part is."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, parts: tuple[Piece, ...]) -> Tensor:
        ctx.shape, ctx.parts = whole.shape, parts
        return (
            torch.cat([whole[part] for part in parts], dim=-2)
            if len(parts) > 1
            else whole[parts[0]].clone(memory_format=torch.contiguous_format)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole, begin = grads[0].new_zeros(ctx.shape), 0
        for part in ctx.parts:
            place = whole[part]
            if len(ctx.parts) == 1:
                place.copy_(grads[0])
                break
            size = place.shape[-2]
            place.copy_(grads[0].narrow(-2, begin, size))
            begin += size
        return whole, None


def _parts(own: PointVoxelUNet, whole: PointVoxelUNet) -> _Parts:
    shapes = {name: part.shape for name, part in whole.named_parameters()}
    parameters: dict[str, tuple[Piece, ...] | None] = {}
    for name, part in own.named_parameters():
        same = part.shape == shapes[name]
        parameters[name] = None if same else pieces(name, part.shape, own.spec, whole.spec)
    buffers: dict[str, Piece | None] = {}
    for name, buffer in own.named_buffers():
        buffers[name] = (slice(len(buffer)),) if buffer.ndim else None
    return _Parts(parameters, buffers)


def _piece(whole: Tensor, parts: tuple[Piece, ...] | None) -> Tensor:
    if parts is None:
        return whole
    out: Tensor = _Cut.apply(whole, parts)  # type: ignore[no-untyped-call]
    return out


def _hollow(spec: NetSpec) -> PointVoxelUNet:
    with torch.device("meta"):
        return PointVoxelUNet(spec)


def re_estimate(net: nn.Module, batches: Iterable[Batch]) -> None:
    """Replaces a network's BatchNorm statistics by their means over a few batches, and leaves it in evaluation mode.

    batches: a few dozen scans in all are enough; those of training, because it is their statistics that the weights
             were learnt with

    Weights stay as they are, and nothing is dropped out. Raises ValueError for no batch.
    """
    re_estimate_all([net], batches)


@torch.no_grad()
def re_estimate_all(nets: Sequence[nn.Module], batches: Iterable[Batch]) -> None:
    """Does what `re_estimate` does for several networks, which share the geometry of each batch."""
    norms = [module for net in nets for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for net in nets:
        net.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        none = True
        for coords, feats, levels in batches:
            none = False
            known = levels_of(coords, feats) if levels is None else levels
            for net in nets:
                net(coords, feats, known)
        if none:
            raise ValueError("BatchNorm statistics need at least one batch, found none")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for net in nets:
            net.eval()


def levels_of(coords: Tensor, feats: Tensor) -> Levels | None:
    """Returns a batch's geometry for several networks, compiled where it can be; else None: each finds its own."""
    if coords.device.type != "cpu" or feats.dtype != torch.float32:
        return None
    return build_training_levels(coords, NUM_STAGES, POINT_LEVELS)
