"""How good labels are: truth from files or clouds, scores by the benchmark's definition, report and picture."""

from __future__ import annotations

from spvnas_ros.offline.evaluation.metrics import Score, confusion_matrix, intersection_over_union, score

__all__ = ["Score", "confusion_matrix", "intersection_over_union", "score"]
