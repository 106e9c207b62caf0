"""What a recipe's precision means on a device, and what is said where a resumed run goes on in another."""

from __future__ import annotations

from pathlib import Path

import pytest

from spvnas_ros.offline.training.precision import Precision, changed, settle
from spvnas_ros.offline.training.progress_line import ProgressLine
from spvnas_ros.offline.training.recorder import Plan, Recorder
from spvnas_ros.sparse.on_cpu import multiplies_bf16


def test_the_cpu_takes_bf16_where_it_can() -> None:
    for asked in ("auto", "bf16"):
        precision = settle(asked, "cpu")
        assert precision.lightning == "32-true"
        assert precision.products == ("bf16" if multiplies_bf16() else "fp32")
    assert settle("fp32", "cpu") == Precision("32-true")
    assert settle("bf16", "cpu").remark


def test_cuda_and_the_precisions_of_lightning_are_lightnings() -> None:
    assert [settle(asked, "cuda").lightning for asked in ("auto", "fp32", "bf16")] == [
        "16-mixed",
        "32-true",
        "bf16-mixed",
    ]
    assert settle("bf16-mixed", "cpu") == Precision("bf16-mixed")
    assert settle("16-mixed", "cuda") == Precision("16-mixed")


@pytest.mark.parametrize("before", [{"products": "bf16"}, {}])
def test_a_run_that_goes_on_in_another_precision_says_so(
    before: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = before.get("products", "fp32")  # runs of earlier versions do not say
    for now in ("fp32", "bf16"):
        with ProgressLine(1) as progress:
            facts, never = object(), lambda *_: None
            recorder = Recorder(
                tmp_path, Plan(1, 1, 1, 1, None), facts, None, progress, exam=never, keep=never, products=now
            )
            recorder.load_state_dict({"best": None, **before})
        said = capsys.readouterr().err
        assert ("took bf16 operands" in said or "took fp32 operands" in said) == (began != now)
    assert not changed("bf16", "bf16")
