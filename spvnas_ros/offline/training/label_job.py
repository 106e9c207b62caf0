"""The training of a network that labels points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.data import (
    check_training,
    check_validation,
    class_counts,
    open_training,
    open_validation,
    remarks,
    sensor_of,
    training_loader,
    validation_loader,
)
from spvnas_ros.offline.training.losses import inverse_sqrt_weights
from spvnas_ros.offline.training.recorder import Exam, Keep, keep_labels, label_exam
from spvnas_ros.offline.training.start import Start, spec_of
from spvnas_ros.offline.training.stop_signals import StopSignals
from spvnas_ros.offline.training.story import begun, provenance_of, record_of
from spvnas_ros.offline.training.task import RecipeTask, SegmentationTask
from spvnas_ros.perception import limits_of
from spvnas_ros.zoo.checkpoint import Facts, TrainingRecord


class LabelJob:
    """The training of a network that labels points. Raises DatasetError where the recipe's data cannot be opened."""

    without_boxes = "because the recipe has no boxes"
    """Why a box branch of the start is not kept."""

    def __init__(self, recipe: Recipe, start: Start | None) -> None:
        self.recipe, self.start = recipe, start
        self.scans, self.validation = open_training(recipe.data), open_validation(recipe.data)

    def check(self, replicas: int) -> None:
        """Raises DatasetError where no scan can be learnt from, or none scored."""
        check_training(self.recipe, self.scans, replicas)
        if self.validation:
            check_validation(self.validation)

    def remarks(self) -> list[str]:
        """Returns what is done to the scans, and what about them is unlike those that networks know."""
        lines = remarks(self.scans, self.start.facts.sensor_height if self.start else None)
        if self.start and self.start.facts.spec.boxes:
            lines.append(
                f"{self.start.weights} finds boxes, too; the network to come labels points alone, {self.without_boxes}"
            )
        return lines

    def task(self, steps: int) -> SegmentationTask:
        """Returns the steps of the training, on the network to begin with."""
        spec = spec_of(self.recipe, self.start, self.scans.label_map)
        # What nothing trains and nothing validates is not kept: a box branch would no longer fit its features.
        task = SegmentationTask(self.recipe, replace(spec, boxes=None), steps, self.class_weights())
        if self.start:
            own = task.net.state_dict()
            task.net.load_state_dict({key: value for key, value in self.start.net.state_dict().items() if key in own})
        return task

    def class_weights(self) -> Tensor | None:
        """Returns the weight of each class in the loss, float32 `[C]`; None = 1."""
        loss = self.recipe.loss
        if loss.class_weights == "none":
            return None
        return torch.from_numpy(inverse_sqrt_weights(class_counts(self.scans, loss.class_weight_scans)))

    def record(self) -> TrainingRecord:
        """Returns the record of the training, before its first step."""
        return record_of(self.recipe, len(self.scans))

    def facts(self, task: RecipeTask) -> Facts:
        """Returns the facts about the network to come."""
        recipe, start, label_map = self.recipe, self.start, self.scans.label_map
        provenance, record = begun(start, provenance_of(recipe), self.record())
        intensity, height = sensor_of(self.scans)
        return Facts(
            spec=task.net.spec,
            name=recipe.name,
            label_map=label_map.name,
            classes=label_map.classes,
            palette=label_map.palette,
            voxel_size=recipe.data.voxel_size,
            point_range=start.facts.point_range if start else None,
            provenance=provenance,
            training=record,
            training_intensity=intensity,
            sensor_height=height,
        )

    def exam(self) -> Exam:
        """Returns the exam of the validation."""
        boxes_only = self.validation is not None and self.validation.boxes_only
        return label_exam(self.scans.label_map.classes, boxes_only=boxes_only)

    def keep(self) -> Keep:
        """Returns what writes the network."""
        return partial(keep_labels, half=self.recipe.trainer.half)

    def training_loader(self, steps: int, facts: Facts, **options: Any) -> DataLoader[Any]:
        """Returns the loader of the steps' batches."""
        return training_loader(self.recipe, self.scans, steps, limits=limits_of(facts), **options)

    def validation_loader(self, facts: Facts, stop: StopSignals) -> Callable[[int, int], DataLoader[Any]] | None:
        """Returns what makes the loader of a process's scans; None where there are none."""
        if not self.validation:
            return None
        return partial(validation_loader, self.recipe, self.validation, limits=limits_of(facts), stop=stop)
