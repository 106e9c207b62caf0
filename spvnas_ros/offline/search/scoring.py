"""How good a subnet is: its mIoU on drives that the supernet has not seen, with BatchNorm statistics of its own.

`score` runs in workers, which keep the supernet and the batches for the statistics from call to call. It computes with
one thread, so that a score does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from spvnas_ros.clouds.cleaning import clean
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.nets.space import Candidate
from spvnas_ros.nets.supernet import Batch, levels_of, re_estimate
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.evaluation import metrics
from spvnas_ros.offline.search.drives import Drives
from spvnas_ros.offline.training.batch import VoxelDataset, collate
from spvnas_ros.perception import limits_of
from spvnas_ros.zoo.checkpoint import save_checkpoint
from spvnas_ros.zoo.supernet_checkpoint import load_supernet, subnet_facts

FUNCTION, KEEP = f"{__name__}:score", f"{__name__}:keep"
"""The functions that workers carry out."""


@dataclass(frozen=True)
class Exam:
    """What candidates are scored with. JSON can hold its dictionary.

    supernet: path of the checkpoint; sha256: of its weights
    sources, learn, score, score_scans, label_map: see `Drives.open`
    batches, batch_scans, max_voxels: for BatchNorm's statistics; seed: of which voxels are kept
    """

    supernet: str
    sha256: str
    sources: tuple[str, ...]
    learn: tuple[str, ...]
    score: tuple[str, ...]
    score_scans: int
    label_map: str
    batches: int
    batch_scans: int
    max_voxels: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the exam as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Exam:
        """Returns the exam that `to_dict` wrote."""
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in data.items()}
        return cls(**values)


class Examiner:
    """Scores the subnets of a supernet. Raises the errors of `load_supernet` and `Drives.open`, and UserError where the
    supernet's file has changed.
    """

    def __init__(self, exam: Exam) -> None:
        self.exam = exam
        self.supernet, self.facts = load_supernet(exam.supernet)
        if self.facts.weights_sha256 != exam.sha256:
            raise UserError(
                f"the weights of {exam.supernet} have sha256 {self.facts.weights_sha256}, expected {exam.sha256}; "
                "the file is another one than that the search was begun with"
            )
        self.drives = Drives.open(exam.sources, exam.learn, exam.score, exam.score_scans, exam.label_map)
        self._batches = lru_cache(maxsize=2)(self._read_batches)

    def network(self, candidate: Candidate) -> PointVoxelUNet:
        """Returns the subnet, with BatchNorm statistics of its own."""
        net = self.supernet.subnet(candidate)
        re_estimate(net, self._batches(candidate.voxel_size))
        return net

    def marks(self, net: PointVoxelUNet, voxel_size: float) -> metrics.Score:
        """Returns the scores of a network on the drives for that."""
        engine, classes = CpuEngine(net, voxel_size, 1, "fp32"), self.drives.score.label_map.classes
        limits = limits_of(replace(self.facts, voxel_size=voxel_size))
        confusion = np.zeros((len(classes), len(classes) + 1), np.int64)
        for index in range(len(self.drives.score)):
            scan = self.drives.score[index]
            cleaned = clean(scan.points, limits)
            labels = np.full(len(scan), UNLABELLED, np.uint8)
            rows = slice(None) if cleaned.kept is None else cleaned.kept
            labels[rows] = engine.segment(cleaned.points, scores=False).labels
            confusion += metrics.confusion_matrix(scan.labels, labels, len(classes))
        return metrics.score(confusion, classes)

    def _read_batches(self, voxel_size: float) -> Sequence[Batch]:
        exam = self.exam
        scans = self.drives.learn.spread(exam.batches * exam.batch_scans)
        samples = VoxelDataset(scans, voxel_size=voxel_size, max_voxels=exam.max_voxels or None, seed=exam.seed)
        batches: list[Batch] = []
        for begin in range(0, len(scans), exam.batch_scans):
            batch = collate([samples[index] for index in range(begin, min(begin + exam.batch_scans, len(scans)))])
            batches.append((batch.coords, batch.feats, levels_of(batch.coords, batch.feats)))
        return batches


@lru_cache(maxsize=1)
def _examiner(exam: Exam) -> Examiner:
    return Examiner(exam)


def score(argument: dict[str, Any]) -> dict[str, Any]:
    """Returns the mIoU (0..1) and the IoU of each class of a candidate; what a worker is asked for.

    argument: `exam` and `candidate` as their dictionaries

    Raises UserError where none of the points has a truth.
    """
    torch.set_num_threads(1)
    exam, candidate = Exam.from_dict(argument["exam"]), Candidate.from_dict(argument["candidate"])
    examiner = _examiner(exam)
    with torch.no_grad():
        marks = examiner.marks(examiner.network(candidate), candidate.voxel_size)
    if marks.miou is None:
        raise UserError(f"no point of data.score ({', '.join(exam.score)}) has a label, so nothing can be scored")
    return {"miou": marks.miou, "iou": marks.iou}


def keep(argument: dict[str, Any]) -> None:
    """Writes a candidate as a checkpoint of its own; what a worker is asked for.

    argument: `exam` and `candidate` as their dictionaries; `path`, `name` and `provenance` of the checkpoint

    Raises CheckpointError where it cannot be written.
    """
    torch.set_num_threads(1)
    examiner, candidate = _examiner(Exam.from_dict(argument["exam"])), Candidate.from_dict(argument["candidate"])
    facts = replace(subnet_facts(examiner.facts, candidate, argument["name"]), provenance=argument["provenance"])
    with torch.no_grad():
        save_checkpoint(argument["path"], examiner.network(candidate), facts)
