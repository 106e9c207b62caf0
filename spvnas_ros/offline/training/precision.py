"""What a recipe's `trainer.precision` means on the device it trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Products = Literal["fp32", "bf16"]

_ON_CUDA = {"auto": "16-mixed", "fp32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Precision:
    """The precision of a training.

    lightning: what PyTorch Lightning is told
    products:  operands of the sparse convolutions' products on a CPU, those of their gradients included. Sums, the
               parameters, BatchNorm and losses are float32 either way
    remark:    what is said of it; "" = nothing
    """

    lightning: str
    products: Products = "fp32"
    remark: str = ""


def settle(asked: str, device: str) -> Precision:
    """Returns what "auto", "fp32", "bf16" or one of Lightning's own precisions means on "cpu" or "cuda"."""
    if asked not in _ON_CUDA:
        return Precision(asked)
    if device == "cuda":
        return Precision(_ON_CUDA[asked])
    if asked == "fp32":
        return Precision("32-true")
    from spvnas_ros.sparse.on_cpu import multiplies_bf16

    if multiplies_bf16():
        return Precision("32-true", "bf16", "products of sparse convolutions take bfloat16 operands, sums are float32")
    refused = "this CPU has no AVX512-BF16: all is float32 (trainer.precision=bf16)"
    return Precision("32-true", "fp32", refused if asked == "bf16" else "")


def changed(before: Products, now: Products) -> str:
    """Returns what is said where a resumed run goes on in another precision than it began in; "" where it does not."""
    if before == now:
        return ""
    return (
        f"warning: the steps so far took {before} operands (trainer.precision), those to come take {now}, as this "
        "processor has it; they are not the very steps of an uninterrupted run"
    )
