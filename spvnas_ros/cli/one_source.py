"""What `spvnas segment` does with one source, from the values of its options, which workers get as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvnas_ros.cli.options import chosen_truth
from spvnas_ros.segment.command import SegmentRequest, run
from spvnas_ros.segment.label_forms import LabelForm

if TYPE_CHECKING:
    from spvnas_ros.recordings.scans import Source
    from spvnas_ros.zoo.checkpoint import Facts

_NOT_REQUESTED = ("truth", "label_ids", "network_labels", "label_format", "classification")


def label(source: Path, out: Path, options: Mapping[str, Any]) -> int:
    """Labels a source into a folder. Returns the exit status, and raises what `segment.command.run` raises.

    options: values of the command's options, by the names of its parameters
    """
    plain = {name: value for name, value in options.items() if name not in _NOT_REQUESTED}
    form = LabelForm(options["label_format"], options["classification"])
    asked = SegmentRequest(source, out, form=form, **plain)
    if where := chosen_truth(options["truth"], options["label_ids"], options["network_labels"]):
        from spvnas_ros.offline.evaluation.judge import TruthJudge, print_report

        def judge(source: Source, facts: Facts) -> TruthJudge:
            return TruthJudge.open(source, where, facts, options["palette"])

        asked = replace(asked, judge=judge, describe=print_report)
    return run(asked)
