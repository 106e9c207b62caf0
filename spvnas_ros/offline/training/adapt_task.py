"""The training steps that adapt a network to scans without labels: a student learns what its teacher is sure of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spvnas_ros.frame import UNLABELLED
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS
from spvnas_ros.offline.datasets.scan import LabelledScan
from spvnas_ros.offline.training.adapt_batch import Mixer, Pair, PairBatch, batch_of, mask_of
from spvnas_ros.offline.training.batch import Sample, VoxelDataset, collate
from spvnas_ros.offline.training.config import AdaptConfig, Recipe
from spvnas_ros.offline.training.pseudo_labels import BINS, confident, counted, thresholds
from spvnas_ros.offline.training.task import SegmentationTask, averaged
from spvnas_ros.sparse.on_cpu import build_training_levels


class AdaptTask(SegmentationTask):
    """The training steps of a recipe that adapts a network.

    The teacher is the average of the student's weights, slow from the first step on: Tarvainen and Valpola, "Mean
    teachers are better role models", NeurIPS 2017. It labels each unlabelled scan as it was recorded; of every class
    the same share of its labels is learnt (`pseudo_labels`). The student learns from that scan mixed with a labelled
    one, both ways: as in Saltori et al., "CoSMix", ECCV 2022, with the mixing of the recipe's `augment`.

    counts:   float64 `[C, BINS]`, the teacher's labels by class and confidence, of about the last `adapt.memory` scans
    seen, kept: int64 `[C]`, voxels that the teacher has labelled so in the steps, and those of them that were learnt

    net:     the network to begin with
    mixer:   makes the scans that the student sees
    clean:   how the teacher's scans become voxels
    first:   unlabelled scans on which the thresholds are estimated before the first step
    """

    counts: Tensor
    seen: Tensor
    kept: Tensor

    def __init__(
        self,
        recipe: Recipe,
        net: nn.Module,
        steps: int,
        class_weights: Tensor | None,
        *,
        mixer: Mixer,
        clean: VoxelDataset,
        first: Callable[[], Iterable[LabelledScan]],
        memory: int,
    ) -> None:
        assert recipe.adapt is not None
        super().__init__(recipe, net, steps, class_weights)
        self.config: AdaptConfig = recipe.adapt
        classes = self.net.spec.num_classes
        self.register_buffer("counts", torch.zeros(classes, BINS, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("kept", torch.zeros(classes, dtype=torch.int64))
        self._mixer, self._clean, self._first, self._memory = mixer, clean, first, memory

    def configure_model(self) -> None:
        """Adds the teacher."""
        if self.average is None:
            self.average = averaged(self.net, self.recipe.trainer.ema, begins=False)

    def learn(self) -> None:
        """Sets the student into the mode of training; its BatchNorms keep their statistics where the recipe says so."""
        super().learn()
        if self.config.norm == "kept":
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.eval()

    def on_train_start(self) -> None:
        """Estimates the thresholds by the first teacher, unless a resumed run brings them along."""
        self.learn()
        if not self.counts.any():
            for scan in self._first():
                _, labels, bins = self.teach(scan)
                self.counts += counted(labels, bins, len(self.counts))

    @torch.no_grad()
    def teach(self, scan: LabelledScan) -> tuple[Sample, Tensor, Tensor]:
        """Returns a scan's voxels and the teacher's label of each with the bin of its confidence, int64 `[M]`."""
        sample = self._clean.voxelise(scan, np.random.default_rng(0))[0]
        return sample, *confident(logits_of(self.best_net, sample, self.device))

    def _labelled(self, pair: Pair) -> Pair:
        """Returns a pair whose unlabelled scan has the labels that the teacher is sure of, and counts them."""
        sample, labels, bins = self.teach(pair.target)
        classes = len(self.counts)
        self.counts.mul_(1 - 1 / self._memory).add_(counted(labels, bins, classes))
        least = torch.from_numpy(thresholds(self.counts.cpu().numpy(), self.config.share)).to(self.device)
        sure = bins >= least[labels]
        self.seen += torch.bincount(labels, minlength=classes)
        self.kept += torch.bincount(labels[sure], minlength=classes)
        assert sample.inverse is not None
        learnt = torch.where(sure, labels, UNLABELLED).to(torch.uint8).cpu().numpy()
        return replace(pair, target=replace(pair.target, labels=learnt[sample.inverse]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ARG002
        """Returns the loss of the student on the mixed scans, what share of the teacher's voxels it was given, and how
        much of that it says itself.

        batch: a `PairBatch`
        """
        assert isinstance(batch, PairBatch)
        samples, ours = self._mixer([self._labelled(pair) for pair in batch.pairs])
        if self.config.norm == "apart":
            # The labelled scans and the others, each half with statistics of its own.
            halves = [batch_of(samples[half::2], self.device) for half in (0, 1)]
            masks = [mask_of(ours[half::2], self.device) for half in (0, 1)]
        else:
            halves, masks = [batch_of(samples, self.device)], [mask_of(ours, self.device)]
        logits = torch.cat([self.net(half.coords, half.feats).float() for half in halves])
        labels, target = torch.cat([half.labels for half in halves]), torch.cat(masks)
        loss = self.loss(logits, labels)
        taught = target & (labels != UNLABELLED)
        agreed = (logits.detach().argmax(dim=1) == labels)[taught]
        parts = {
            "taught": taught.sum() / target.sum().clamp(min=1),
            "agreement": agreed.sum() / taught.sum().clamp(min=1),
        }
        return {"loss": loss, "parts": parts}


@torch.no_grad()
def logits_of(net: nn.Module, sample: Sample, device: torch.device) -> Tensor:
    """Returns what a network in eval mode says of a sample's voxels, float32 `[M, C]`."""
    batch = collate([sample])
    # Without gradients the network itself takes the plain path. The compiled one is several times faster.
    levels = build_training_levels(batch.coords, NUM_STAGES, POINT_LEVELS) if device.type == "cpu" else None
    logits: Tensor = net(batch.coords.to(device), batch.feats.to(device), levels)
    return logits
