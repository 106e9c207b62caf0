"""How good labels are: truth from files or fields, scores by the benchmark's definition, report and picture.

`spvnas evaluate` scores data sets, `spvnas segment --truth` hands `judge` to its run, and training validates with it.
"""

from __future__ import annotations

from spvnas_ros.offline.evaluation.metrics import Score, confusion_matrix, intersection_over_union, score

__all__ = ["Score", "confusion_matrix", "intersection_over_union", "score"]
