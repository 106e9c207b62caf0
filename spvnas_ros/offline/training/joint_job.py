"""The training of a network that gives labels and boxes from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spvnas_ros.clouds.cleaning import Limits
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.nets.box_spec import branch_difference
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.offline.augment.boxed_objects import Database, build_database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.datasets.boxed import BoxedScan, Unboxed, has_boxes, join_boxed, open_boxed
from spvnas_ros.offline.datasets.joined import Several, Source
from spvnas_ros.offline.datasets.scan import DatasetError, find_label_map
from spvnas_ros.offline.training.batch import EpochSampler
from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.data import StepSampler, loader_of, open_sources, remarks, sensor_of
from spvnas_ros.offline.training.joint_batch import JointSamples, collate_joint
from spvnas_ros.offline.training.joint_task import JointTask, joint_exam
from spvnas_ros.offline.training.losses import inverse_sqrt_weights
from spvnas_ros.offline.training.recorder import Exam, Keep, keep_labels
from spvnas_ros.offline.training.simulated import folders
from spvnas_ros.offline.training.start import Start, spec_of
from spvnas_ros.offline.training.stop_signals import StopSignals
from spvnas_ros.offline.training.story import begun, provenance_of, record_of
from spvnas_ros.offline.training.task import RecipeTask
from spvnas_ros.perception import limits_of
from spvnas_ros.zoo.checkpoint import Facts


class JointJob:
    """The training of a network with a box branch. Sources may have labels, boxes or both.

    Raises DatasetError where the recipe's data cannot be opened, and SpecError where no branch fits the recipe.
    """

    def __init__(self, recipe: Recipe, start: Start | None) -> None:
        assert recipe.boxes is not None
        self.recipe, self.start, self.config = recipe, start, recipe.boxes
        self.branch, self.kinds = recipe.boxes.spec(recipe.data.voxel_size), recipe.boxes.classes_of_kinds()
        self.augmentation = BoxedAugmentation.from_config(recipe.augment)
        self.label_map = find_label_map(recipe.data.label_map)
        data = recipe.data
        simulated = [(each.validates, each.path) for each in folders(data.simulate, boxes=True)]
        train = self._open(data.train, data.sequences) + self._open([p for v, p in simulated if not v], ())
        if not train:
            raise DatasetError("the recipe names no scans to train on; add data.train=FOLDER")
        validation = self._open(data.validation, data.validation_sequences)
        validation += self._open([p for v, p in simulated if v], ())
        self.scans: Several[BoxedScan] = join_boxed(train)
        self.validation = join_boxed(validation).spread(data.validation_scans) if validation else None

    def _open(self, sources: Sequence[str | Path], sequences: Sequence[str]) -> list[Source[BoxedScan]]:
        data = self.recipe.data
        opened: list[Source[BoxedScan]] = []
        for path in map(Path, sources):
            if has_boxes(path):
                opened.append(
                    open_boxed(
                        path,
                        label_map=self.label_map.name,
                        sequences=sequences or None,
                        intensity=data.intensity or None,
                        intensity_field=data.intensity_field or None,
                    )
                )
            else:
                opened += map(Unboxed, open_sources([str(path)], sequences, data))
        return opened

    def check(self, replicas: int) -> None:
        """Raises DatasetError where no scan has a box of the network's classes in its range, or none a label, to be
        learnt or scored.
        """
        self._samples(self.scans, replicas=replicas)[0]
        for scans, key in ((self.scans, "train"), (self.validation, "validation")):
            if scans is None:
                continue
            samples, boxes, labels = self._samples(scans, training=False), False, self.config.only
            for index in range(len(scans)):
                with suppress(UserError):
                    sample = samples[index]
                    boxes |= bool(sample.seen.any())
                    labels |= bool((sample.labels != UNLABELLED).any())
                if boxes and labels:
                    break
            else:
                lacking = [word for word, there in (("a box", boxes), ("a label", labels)) if not there]
                names = ", ".join(each.name for each in self.config.classes)
                wanted = (
                    f"; boxes are of {names} within {self.config.reach:g} m (boxes.classes, boxes.reach, "
                    "boxes.min_points)"
                )
                raise DatasetError(
                    f"none of {len(scans)} scan(s) has {' or '.join(lacking)} that counts (data.{key})"
                    f"{wanted if not boxes else ''}"
                )

    def _samples(self, scans: Source[BoxedScan], *, training: bool = True, replicas: int = 1) -> JointSamples:
        data = self.recipe.data
        return JointSamples(
            scans,
            self.branch,
            self.kinds,
            self._limits,
            self.augmentation if training else None,
            database=self.database if training else None,
            min_points=self.config.min_points,
            max_voxels=data.max_voxels or None,
            seed=self.recipe.seed,
            alone=self.recipe.trainer.batch_size // replicas == 1,
        )

    @cached_property
    def _limits(self) -> Limits:
        return limits_of(self.facts_of(self.spec))

    @cached_property
    def database(self) -> Database | None:
        """The objects to put into other scans; None where the recipe asks for none."""
        if self.augmentation.least is None:
            return None
        return build_database(self._readable(), self.augmentation.least)

    def _readable(self) -> Iterator[BoxedScan]:
        samples = self._samples(self.scans, training=False)
        for index in range(len(self.scans)):
            with suppress(DatasetError):
                yield samples.read(index)

    def remarks(self) -> list[str]:
        """Returns what is done to the scans, what about them is unlike those that networks know, and which objects they
        lack.
        """
        lines = remarks(self.scans, self.start.facts.sensor_height if self.start else None)
        if self.start and not self.start.branch and (theirs := self.start.net.spec.boxes) != self.branch:
            why = (
                "has no box branch"
                if theirs is None
                else f"has another box branch ({branch_difference(theirs, self.branch)})"
            )
            keeps = "keeps" if self.config.only else "begins with"
            lines.append(f"{self.start.weights} {why}: what labels {keeps} its weights, the branch begins at random")
        there = () if self.database is None else tuple(self.database.rows)
        if missing := [kind for kind in self.augmentation.kinds if kind not in there]:
            lines.append(
                f"warning: augment.sample_objects wants {', '.join(missing)}, of which the training scans have no "
                f"object with points enough; they have {', '.join(there) or 'none at all'}"
            )
        return lines

    @cached_property
    def spec(self) -> NetSpec:
        """The network's description."""
        return replace(spec_of(self.recipe, self.start, self.label_map), boxes=self.branch)

    def task(self, steps: int) -> JointTask:
        """Returns the steps of the training, on the network to begin with. What a start lacks begins at random."""
        task = JointTask(self.recipe, self.spec, steps, self._class_weights())
        if self.start:
            own, given = task.net.state_dict(), self.start.net.state_dict()
            same = self.start.net.spec.boxes == self.branch
            taken = {key: value for key, value in given.items() if same or not key.startswith("boxes.")}
            if self.start.branch:
                branch = self.start.branch.net.state_dict()
                taken |= {key: value for key, value in branch.items() if key.startswith("boxes.")}
            task.net.load_state_dict(own | taken)
        return task

    def _class_weights(self) -> Tensor | None:
        loss = self.recipe.loss
        if loss.class_weights == "none" or self.config.only:
            return None
        counts = np.zeros(256, np.int64)
        rows = np.linspace(0, len(self.scans) - 1, min(loss.class_weight_scans, len(self.scans))).round().astype(int)
        for index in np.unique(rows).tolist():
            with suppress(DatasetError):
                if (labels := self.scans[index].labels) is not None:
                    counts += np.bincount(labels, minlength=256)
        return torch.from_numpy(inverse_sqrt_weights(counts[: len(self.label_map.classes)]))

    def facts(self, task: RecipeTask) -> Facts:
        """Returns the facts about the network to come."""
        if self.start and self.config.only:
            return self.facts_of(task.net.spec)
        intensity, height = sensor_of(self.scans)
        return replace(self.facts_of(task.net.spec), training_intensity=intensity, sensor_height=height)

    def facts_of(self, spec: NetSpec) -> Facts:
        """Returns the facts that need no look at the scans."""
        recipe, start = self.recipe, self.start
        provenance, record = begun(start, provenance_of(recipe), record_of(recipe, len(self.scans)))
        if start and self.config.only:  # the labels are the start's, and so is what has to be known for them
            return replace(
                start.facts, spec=spec, name=recipe.name, provenance=provenance, training=record, source_sha256=None
            )
        return Facts(
            spec=spec,
            name=recipe.name,
            label_map=self.label_map.name,
            classes=self.label_map.classes,
            palette=self.label_map.palette,
            voxel_size=recipe.data.voxel_size,
            point_range=start.facts.point_range if start else None,
            provenance=provenance,
            training=record,
        )

    def exam(self) -> Exam:
        """Returns the exam of the validation."""
        return joint_exam(self.label_map.classes, self.config)

    def keep(self) -> Keep:
        """Returns what writes the network."""
        return partial(keep_labels, half=self.recipe.trainer.half)

    def training_loader(
        self,
        steps: int,
        facts: Facts,  # noqa: ARG002
        *,
        start: Callable[[], int],
        rank: int,
        replicas: int,
        pin_memory: bool,
        stop: StopSignals,
    ) -> DataLoader[Any]:
        """Returns the loader of the steps' batches."""
        recipe, size = self.recipe, len(self.scans)
        samples = self._samples(self.scans, replicas=replicas)
        sampler = StepSampler(
            size, recipe.trainer.batch_size, steps, seed=recipe.seed, start=start, rank=rank, replicas=replicas
        )
        return loader_of(samples, sampler, recipe.data.workers, pin_memory, stop, collate_joint)

    def validation_loader(
        self,
        facts: Facts,  # noqa: ARG002
        stop: StopSignals,
    ) -> Callable[[int, int], DataLoader[Any]] | None:
        """Returns what makes the loader of a process's scans; None where there are none."""
        if (scans := self.validation) is None:
            return None
        samples, workers = self._samples(scans, training=False), min(self.recipe.data.workers, 1)

        def loader(rank: int, replicas: int) -> DataLoader[Any]:
            sampler = EpochSampler(len(scans), shuffle=False, rank=rank, replicas=replicas)
            return loader_of(samples, [[key] for key in sampler], workers, False, stop, collate_joint)

        return loader
