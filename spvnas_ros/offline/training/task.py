"""Defines the training steps of networks as Lightning modules: what all have in common, and those for labels."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from spvnas_ros.errors import UserError
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.batch import Batch
from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.losses import cross_entropy_sum, lovasz_softmax
from spvnas_ros.offline.training.schedules import build_optimiser, momentum, rate_factor
from spvnas_ros.offline.training.shared_norm import share_norms
from spvnas_ros.sparse.modules import narrow_products

_SEED_STRIDE = 1_000_003


class TrainingError(UserError):
    """Raised where a training cannot go on. The message gives the reason and says what to do."""


class RecipeTask(LightningModule):
    """The training steps of a recipe on a network.

    steps:  of the whole training; the learning rate depends on it
    narrow: products of sparse convolutions may take bfloat16 operands in the steps, see `sparse.ops.conv3d`

    Random numbers inside the network are seeded from the recipe's seed, the step and the process. So a run that is
    resumed from a checkpoint takes the same steps as an uninterrupted one.
    """

    def __init__(self, recipe: Recipe, net: nn.Module, steps: int) -> None:
        super().__init__()
        self.recipe, self.steps = recipe, steps
        self.net: Any = net
        self.average: AveragedModel | None = None
        self.narrow = False

    @property
    def best_net(self) -> Any:
        """The network to validate and to keep: the one with averaged weights, where the recipe has an average."""
        return self.net if self.average is None else self.average.module

    def learn(self) -> None:
        """Sets the network into the mode of training, as it is between validations."""
        self.net.train()

    def configure_model(self) -> None:
        """Adds the average of the weights and the shared BatchNorms that the recipe asks for, and narrows the products.

        Lightning calls it when the number of processes is known, possibly more than once.
        """
        if self.average is None and self.recipe.trainer.ema:
            self.average = averaged(self.net, self.recipe.trainer.ema)
        self.adapt(self.net)

    def adapt(self, net: nn.Module) -> None:
        """Makes a network, or one within it, learn as this training wants it to."""
        if self.recipe.trainer.shared_norm and self.trainer.world_size > 1:
            share_norms(net)
        narrow_products(net, self.narrow)

    def configure_optimizers(self) -> Any:
        """Returns the recipe's optimiser and a schedule that sets the learning rate at every step."""
        learnt = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        optimiser = build_optimiser(self.recipe.optimiser, learnt)
        schedule = LambdaLR(optimiser, lambda step: rate_factor(self.recipe.schedule, step, self.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step; the first step is 0."""
        return self.recipe.optimiser.learning_rate * rate_factor(self.recipe.schedule, step, self.steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Seeds the random numbers of this step, and sets its momentum."""
        recipe = self.recipe
        for group in self.trainer.optimizers[0].param_groups if recipe.schedule.kind == "one-cycle" else ():
            now = momentum(recipe.schedule, recipe.optimiser.momentum, self.global_step, self.steps)
            group |= {"betas": (now, group["betas"][1])} if "betas" in group else {"momentum": now}
        step = self.recipe.seed * _SEED_STRIDE + self.global_step
        torch.manual_seed(step * self.trainer.world_size + self.global_rank)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes a step of the optimiser and updates the average of the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.net)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the number of steps of the whole training in the checkpoint."""
        checkpoint["steps"] = self.steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises TrainingError where the checkpoint belongs to a training with another number of steps, as its learning
        rates would differ.
        """
        if checkpoint["steps"] != self.steps:
            raise TrainingError(
                f"the run has {checkpoint['steps']} steps, now there are {self.steps}: are there other scans in the "
                "data folder? Bring the old ones back, or train again in another folder"
            )


class SegmentationTask(RecipeTask):
    """The training steps of a recipe on a network that labels points.

    net:           the network, or its description: then its weights are random
    class_weights: float32 `[C]`, None = 1
    """

    def __init__(
        self, recipe: Recipe, net: NetSpec | nn.Module, steps: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(recipe, PointVoxelUNet(net) if isinstance(net, NetSpec) else net, steps)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Returns the loss of this process's batch, see `loss`."""
        return self.loss(self.net(batch.coords, batch.feats).float(), batch.labels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the recipe's loss of logits `[M, C]` and labels int64 `[M]`, 255 = left out.

        The cross-entropy is scaled so that its average over the processes is the mean over the voxels of all processes.
        The Lovász loss is not a mean over voxels, so each process has its own.
        """
        total, count = cross_entropy_sum(logits, labels, self.class_weights)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(count)
            count = count / self.trainer.world_size
        loss = total / count.clamp(min=1e-6)
        if self.recipe.loss.lovasz:
            loss = loss + self.recipe.loss.lovasz * lovasz_softmax(logits, labels)
        return loss


def averaged(net: nn.Module, decay: float, *, begins: bool = True) -> AveragedModel:
    """Returns a copy of the network that holds the exponential moving average of its parameters and statistics.

    decay: share of the average that is kept at each step; after n steps at most (1 + n) / (10 + n), so that the random
           weights of the beginning lose their influence soon
    begins: whether the weights are those of a beginning; else the average is as slow from the first step on
    """

    def follow(average: Tensor, value: Tensor, updates: Tensor | int) -> Tensor:
        if not value.is_floating_point():
            return value
        kept = min(decay, (1 + int(updates)) / (10 + int(updates))) if begins else decay
        return average.lerp(value, 1 - kept)

    average = AveragedModel(net, avg_fn=follow, use_buffers=True).requires_grad_(False).eval()
    if not begins:
        average.n_averaged.fill_(1)  # the first update of an average of none would replace it
    return average
