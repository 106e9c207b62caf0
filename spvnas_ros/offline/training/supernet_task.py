"""The training steps of a supernet, and how its networks are scored in validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec
from spvnas_ros.nets.supernet import Batch as NetBatch
from spvnas_ros.nets.supernet import Supernet, re_estimate_all, reordered
from spvnas_ros.offline.evaluation.metrics import score
from spvnas_ros.offline.training.batch import Batch, Sample
from spvnas_ros.offline.training.config import Recipe, SupernetConfig
from spvnas_ros.offline.training.recorder import Exam, OnSkip, Verdict, confusions_of
from spvnas_ros.offline.training.task import RecipeTask, SegmentationTask
from spvnas_ros.sparse.backend import levels_for
from spvnas_ros.zoo.checkpoint import Facts
from spvnas_ros.zoo.supernet_checkpoint import save_supernet

_DRAWN, _VALIDATED = 2, 3
"""Streams of random numbers: for the networks of a step, and for those that are validated. `batch` has 0 and 1."""


class SupernetTask(SegmentationTask):
    """The training steps of a recipe on a supernet.

    Which networks learn at a step depends on the seed and the step alone: a resumed run draws the same, and so do all
    processes. What a step has not drawn gets no gradient; whole layers that it has not drawn take no step of the
    optimiser, neither momentum nor decay.
    """

    def __init__(self, recipe: Recipe, space: Space, steps: int, class_weights: Tensor | None = None) -> None:
        assert recipe.supernet is not None
        super().__init__(recipe, Supernet(space), steps, class_weights)
        self.config: SupernetConfig = recipe.supernet

    @property
    def space(self) -> Space:
        """The whole design space."""
        space: Space = self.net.space
        return space

    def configure_model(self) -> None:
        """Does what every training does, also to the networks within the supernet."""
        super().configure_model()
        self.net.adapt = self.adapt

    def space_at(self, step: int) -> Space | None:
        """Returns the space from which a step draws: widths first, then depths, too; None for the whole network."""
        if step < self._shrinking:
            return None
        space, most = self.space, self.space.depths[1]
        return replace(space, depths=(most, most)) if step < math.ceil(self.config.widths_until * self.steps) else space

    @property
    def _shrinking(self) -> int:
        """The first step that draws."""
        return math.ceil(self.config.whole_until * self.steps)

    def drawn(self, step: int) -> list[NetSpec]:
        """Returns the networks that learn at a step. With "sandwich" the largest is the first."""
        space = self.space_at(step)
        if space is None:
            return [self.space.largest().spec]
        rng = np.random.default_rng((self.recipe.seed, _DRAWN, step))
        if self.config.sampling == "uniform":
            return [space.sample(rng).spec]
        others = [space.sample(rng).spec for _ in range(self.config.drawn)]
        return [space.largest().spec, space.smallest().spec, *others]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds the step, and puts channels into order before the first that draws."""
        super().on_train_batch_start(batch, batch_idx)
        if self._shrinking and self.global_step == self._shrinking:
            self._reorder()

    @torch.no_grad()
    def _reorder(self) -> None:
        """Puts channels into the order of their size: weights, their average, and what the optimiser keeps of them."""
        orders = self.net.reorder()
        if self.average is not None:
            average: Any = self.average.module.get_submodule("net")
            average.load_state_dict(reordered(average.state_dict(), orders))
        named = dict(self.net.net.named_parameters())
        state = self.trainer.optimizers[0].state
        for kind in {kind for kept in state.values() for kind in kept}:
            kept = {
                name: state[parameter][kind]
                for name, parameter in named.items()
                if torch.is_tensor(state[parameter].get(kind)) and state[parameter][kind].shape == parameter.shape
            }
            for name, value in reordered(kept, orders).items():
                state[named[name]][kind] = value

    def training_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ARG002
        """Returns the mean of the losses of the step's networks on this process's batch.

        After the first network, each learns what that says of every voxel.
        """
        levels = levels_for(batch.coords, batch.feats, NUM_STAGES, POINT_LEVELS)
        specs, losses, said = self.drawn(self.global_step), list[Tensor](), None
        for spec in specs:
            logits = self.net(spec, batch.coords, batch.feats, levels).float()
            losses.append(self.loss(logits, batch.labels) if said is None else self._distilled(logits, said))
            said = logits.detach().softmax(dim=1) if said is None else said
        loss = torch.stack(losses).mean()
        for parameter in self._untouched(specs):
            loss = loss + 0 * parameter.sum()  # every parameter has a part in the loss of every process
        if len(losses) == 1:
            return loss
        parts = {"loss_largest": losses[0].detach(), "loss_smallest": losses[1].detach()}
        return {"loss": loss, "parts": parts}

    def _distilled(self, logits: Tensor, said: Tensor) -> Tensor:
        """Returns the cross-entropy with soft labels, scaled so that its average over the processes is the mean over
        the voxels of all processes.
        """
        total = -(said * logits.log_softmax(dim=1)).sum()
        count = torch.tensor(float(len(logits)), device=logits.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(count)
            count = count / self.trainer.world_size
        return total / count

    def _untouched(self, specs: Sequence[NetSpec]) -> list[torch.nn.Parameter]:
        """Returns the parameters of layers that none of these networks has."""
        seen = {name for spec in specs for name in self.net.names(spec)}
        return [parameter for name, parameter in self.net.net.named_parameters() if name not in seen]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        """Leaves layers alone that this step has not drawn."""
        for parameter in self._untouched(self.drawn(self.global_step)):
            parameter.grad = None


def validated(space: Space, count: int, seed: int) -> dict[str, Candidate]:
    """Returns the networks that are validated, by name: the largest, the smallest, and some that the seed draws."""
    rng = np.random.default_rng((seed, _VALIDATED))
    drawn = {f"drawn_{number}": space.sample(rng) for number in range(1, count + 1)}
    return {"largest": space.largest(), "smallest": space.smallest()} | drawn


def supernet_exam(
    classes: Sequence[str],
    candidates: dict[str, Candidate],
    batches: Callable[[], Sequence[NetBatch]],
    *,
    boxes_only: bool,
) -> Exam:
    """Returns the exam of a supernet: the mIoU of some of its networks, and their mean, which chooses the best.

    batches:    the training scans on which their statistics are estimated anew; in all processes the same
    boxes_only: only points in boxes have a truth, so that recall counts instead of IoU
    """
    word = "mean recall in boxes" if boxes_only else "mIoU"

    def exam(trainer: Trainer, task: RecipeTask, loader: DataLoader[Sample], on_skip: OnSkip) -> Verdict:
        assert isinstance(task, SupernetTask)
        nets = [task.best_net.subnet(candidate).to(task.device) for candidate in candidates.values()]
        with trainer.precision_plugin.forward_context():
            re_estimate_all(nets, _moved(batches(), task.device))
            counts = confusions_of(nets, loader, task.device, on_skip)
        total = trainer.strategy.reduce(torch.from_numpy(np.stack(counts)).to(task.device), reduce_op="sum")
        found = [score(each, tuple(classes), boxes_only=boxes_only) for each in total.cpu().numpy()]
        values = [each.mean_recall if boxes_only else each.miou for each in found]
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if known else None
        key = "recall_in_boxes" if boxes_only else "miou"
        line = {key: mean} | {f"{key}_{name}": value for name, value in zip(candidates, values, strict=True)}
        name = f"mean of {word} of {len(nets)} subnets in the validation"
        return Verdict(line, f"mean {word} of {len(nets)} subnets", name, mean)

    return exam


def _moved(batches: Sequence[NetBatch], device: torch.device) -> list[NetBatch]:
    return [(coords.to(device), feats.to(device), levels) for coords, feats, levels in batches]


def keep_supernet(path: Path, supernet: Supernet, facts: Facts, *, half: bool = False) -> None:
    """Writes a supernet, without what training alone has."""
    plain = Supernet(supernet.space)
    plain.load_state_dict(supernet.state_dict())
    save_supernet(path, plain, facts, half=half)
