"""The training that adapts a network to recordings without labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets import DatasetError, LabelledScan
from spvnas_ros.offline.datasets.unlabelled import Unlabelled, open_unlabelled, title_of
from spvnas_ros.offline.training.adapt_batch import Mixer, Pairs, PairSampler, pair_up
from spvnas_ros.offline.training.adapt_task import AdaptTask, logits_of
from spvnas_ros.offline.training.batch import VoxelDataset
from spvnas_ros.offline.training.config import ConfigError, Recipe
from spvnas_ros.offline.training.data import Joined, StepSampler, loader_of
from spvnas_ros.offline.training.label_job import LabelJob
from spvnas_ros.offline.training.pseudo_labels import confidence_of, thresholds
from spvnas_ros.offline.training.recorder import Exam, Keep, Verdict, keep_labels
from spvnas_ros.offline.training.start import Start, spec_of
from spvnas_ros.offline.training.story import record_of
from spvnas_ros.offline.training.task import RecipeTask
from spvnas_ros.offline.training.temperature import calibration_error, fit_temperature, gathered, with_temperature
from spvnas_ros.perception import limits_of
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.first_look import first_look
from spvnas_ros.zoo.checkpoint import Facts, TrainingRecord

REPORT = "adapted.json"
"""What the training learnt of the recordings: voxels and thresholds by class, the temperature."""

_PER_SCAN = 5000
"""Voxels of a scan that its temperature is fitted on."""


def check_before(recipe: Recipe, start: Start, processes: int) -> None:
    """Checks what can be known before drives are simulated, which takes minutes.

    Raises ConfigError for a network that cannot teach or no recording at all, DatasetError for one that is not there,
    UserError where several processes are to adapt.
    """
    assert recipe.adapt is not None
    facts = start.facts
    if not recipe.adapt.target:
        raise ConfigError("the recipe names no recording to adapt to; add adapt.target=FOLDER")
    if processes > 1:
        raise UserError(
            f"adapting runs in one process, found {processes}: thresholds are of all unlabelled scans together; start "
            "it without torchrun"
        )
    if not facts.trained:
        raise ConfigError(f"{start.weights} is untrained, so there is nothing that it could teach; start from another")
    if recipe.data.simulate.scenes and facts.classes != SEMANTIC_KITTI.classes:
        raise ConfigError(
            f"{start.weights} tells {', '.join(facts.classes)} apart, but simulated drives have the labels of "
            "SemanticKITTI; name labelled scans of its own instead (data.train=FOLDER data.simulate.scenes=0)"
        )
    for target in recipe.adapt.target:
        if not Path(target).exists():
            raise DatasetError(f"{target} does not exist; expected a scan, a folder of scans, or a bag to adapt to")


class AdaptJob(LabelJob):
    """The training that adapts a network. Raises DatasetError where the recipe's data cannot be opened, ConfigError
    where the network has other classes than the labelled scans.
    """

    without_boxes = (
        "because the features that its boxes are found from change, and a branch that has not learnt the new ones "
        "would find others"
    )

    def __init__(self, recipe: Recipe, start: Start | None) -> None:
        assert recipe.adapt is not None
        assert start is not None
        super().__init__(recipe, start)
        spec_of(recipe, start, self.scans.label_map)
        self.config, self.begun = recipe.adapt, start
        place = PlaceRule.parse(self.config.origin or None, self.config.mount or None)
        place = replace(place, sensor_height=start.facts.sensor_height)
        self.parts: list[Unlabelled] = []
        for target in self.config.target:
            rule = Intensity(self.config.intensity, self.config.intensity_field or None)
            sensor = Sensor(rule, place)
            self.parts.append(open_unlabelled(Path(target), self.scans.label_map, sensor, self.config.topic or None))
        self.targets = Joined(self.parts)
        self._temperature: tuple[str, float] | None = None
        self._errors: dict[str, float] = {}

    @property
    def others(self) -> dict[str, Joined]:
        """Other scans that the run depends on, by name."""
        return {"target": self.targets}

    def check(self, replicas: int) -> None:
        """Raises DatasetError where no labelled scan or no other one can be learnt from."""
        super().check(replicas)
        self._clean(limits=None).usable(0)

    def remarks(self) -> list[str]:
        """Returns what is done to the scans, and what about them is unlike those that the network knows."""
        facts = self.begun.facts
        lines = super().remarks()
        for part in self.parts:
            for looked in part.look():
                found = [*looked.remarks, *map(str, first_look(looked.clouds, looked.sensor, facts))]
                lines.append(f"{part.title}: {len(part)} scans without labels, {looked.sensor.describe()}")
                lines += [f"warning: {part.title}: {each}" for each in found]
        return lines

    def _voxels(self, **options: Any) -> VoxelDataset:
        return VoxelDataset(
            self.scans,
            voxel_size=self.recipe.data.voxel_size,
            max_voxels=self.recipe.data.max_voxels or None,
            **options,
        )

    def _clean(self, limits: Any) -> VoxelDataset:
        """Returns the unlabelled scans as the teacher sees them: whole, with the voxel of each point."""
        return VoxelDataset(
            self.targets,
            voxel_size=self.recipe.data.voxel_size,
            max_voxels=None,
            keep_points=True,
            limits=limits,
            labelled=False,
        )

    def _first(self, clean: VoxelDataset) -> Iterator[LabelledScan]:
        """Yields evenly spread unlabelled scans; the next one stands in for one that cannot be used."""
        count = min(self.config.memory, len(self.targets))
        for row in np.unique(np.linspace(0, len(self.targets) - 1, count).round().astype(int)).tolist():
            yield clean.usable(row)[0]

    def task(self, steps: int) -> AdaptTask:
        """Returns the steps of the training, on the network to begin with, without its box branch."""
        recipe = self.recipe
        net = PointVoxelUNet(replace(self.begun.net.spec, boxes=None))
        own = net.state_dict()
        net.load_state_dict({key: value for key, value in self.begun.net.state_dict().items() if key in own})
        limits = limits_of(self.begun.facts)
        clean = self._clean(limits)
        return AdaptTask(
            recipe,
            net,
            steps,
            self.class_weights(),
            mixer=Mixer(
                Augmentation.from_config(recipe.augment),
                self._voxels(limits=limits, alone=self.config.norm == "apart" and recipe.trainer.batch_size == 2),
                recipe.seed,
            ),
            clean=clean,
            first=lambda: self._first(clean),
            memory=min(self.config.memory, len(self.targets)),
        )

    def record(self) -> TrainingRecord:
        """Returns the record of the training: names and numbers of scans, and nothing of where they lie here."""
        data = self.recipe.data
        named = replace(self.recipe, data=replace(data, train=tuple(map(title_of, map(Path, data.train)))))
        record = record_of(named, len(self.scans))
        targets = ", ".join(f"{part.title} ({len(part)} scans)" for part in self.parts)
        return replace(record, data=f"{record.data}; without labels: {targets}")

    def facts(self, task: RecipeTask) -> Facts:
        """Returns the facts about the network to come."""
        facts = super().facts(task)
        return replace(facts, provenance=f"adapted to {len(self.targets)} scans without labels, {facts.provenance}")

    def exam(self) -> Exam:
        """Returns the exam of the validation, which chooses nothing: it has no labels of the recordings."""
        usual = super().exam()

        def exam(*arguments: Any) -> Verdict:
            return replace(usual(*arguments), chooses=False)

        return exam

    def keep(self) -> Keep:
        """Returns what writes the network, its confidences put right."""

        def keep(path: Path, net: PointVoxelUNet, facts: Facts) -> None:
            keep_labels(path, with_temperature(net, self._fitted(net, facts)), facts, half=self.recipe.trainer.half)

        return keep

    def _fitted(self, net: PointVoxelUNet, facts: Facts) -> float:
        """Returns the temperature of a network, found anew where its weights are others."""
        if not self.config.calibration:
            return 1.0
        mark = str([float(parameter.double().sum()) for parameter in net.parameters()])
        if self._temperature is None or self._temperature[0] != mark:
            logits, labels = gathered(self._scored(net, limits_of(facts)))
            found = fit_temperature(logits, labels)
            self._temperature = mark, found
            before, after = calibration_error(logits, labels), calibration_error(logits / found, labels)
            self._errors = {} if before is None or after is None else {"before": before, "after": after}
        return self._temperature[1]

    def _scored(self, net: PointVoxelUNet, limits: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields logits `[n, C]` and labels `[n]` of some voxels of labelled scans, spread over all."""
        scans = self.validation or self.scans
        samples = VoxelDataset(scans, voxel_size=self.recipe.data.voxel_size, max_voxels=None, limits=limits)
        device = next(net.parameters()).device
        count = min(self.config.calibration, len(scans))
        for row in np.unique(np.linspace(0, len(scans) - 1, count).round().astype(int)).tolist():
            sample = samples[row]
            some = np.random.default_rng(row).permutation(len(sample.labels))[:_PER_SCAN]
            logits = logits_of(net.eval(), sample, device).cpu().float()
            yield logits[torch.from_numpy(some)], torch.from_numpy(sample.labels[some].astype(np.int64))

    def finish(self, task: RecipeTask, facts: Any, out: Path) -> list[str]:
        """Writes the report, and returns it in lines."""
        assert isinstance(task, AdaptTask)
        self._fitted(task.best_net, facts)  # known already, unless a run that was at its end is resumed
        report = self.report(task)
        with replacing(out / REPORT) as file:
            file.write(json.dumps(report, indent=1).encode() + b"\n")
        lines = [f"{'class':<14} {'seen':>10} {'learnt':>10}  from confidence"]
        for name, row in report["classes"].items():
            least = "-" if row["least_confidence"] is None else f"{row['least_confidence']:.3f}"
            lines.append(f"{name:<14} {row['seen']:>10} {row['learnt']:>10}  {least}")
        if "temperature" in report:
            lines.append(f"confidences: temperature {report['temperature']:.3f}")
        lines.append(f"{out / REPORT}; the last network is the one to use, for without labels nothing chooses a better")
        return lines

    def report(self, task: AdaptTask) -> dict[str, Any]:
        """Returns what was learnt of the recordings."""
        least = thresholds(task.counts.cpu().numpy(), self.config.share)
        seen, kept = task.seen.tolist(), task.kept.tolist()
        confidence = confidence_of(least).tolist()
        names = self.scans.label_map.classes
        document: dict[str, Any] = {
            "targets": {part.title: len(part) for part in self.parts},
            "classes": {
                name: {
                    "seen": seen[row],
                    "learnt": kept[row],
                    "least_confidence": confidence[row] if task.counts[row].any() else None,
                }
                for row, name in enumerate(names)
            },
        }
        if self._temperature is not None:
            document["temperature"] = self._temperature[1]
            document["calibration_error_of_labelled"] = self._errors
        return document

    def training_loader(self, steps: int, facts: Facts, **options: Any) -> DataLoader[Any]:
        """Returns the loader of the steps' pairs."""
        recipe, limits = self.recipe, limits_of(facts)
        # Each kind in epochs and in an order of its own.
        sources, targets = (
            StepSampler(
                len(scans), recipe.trainer.batch_size // 2, steps, seed=recipe.seed + row, start=options["start"]
            )
            for row, scans in enumerate((self.scans, self.targets))
        )
        return loader_of(
            Pairs(self._voxels(limits=limits), self._clean(limits)),
            PairSampler(sources, targets),
            recipe.data.workers,
            options["pin_memory"],
            options["stop"],
            pair_up,
        )
