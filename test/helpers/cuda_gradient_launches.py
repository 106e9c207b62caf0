"""The weight gradient's kernels, compiled for GPUs that are not here: run as a program, it prints what came out."""

from __future__ import annotations

import json

from cuda_launches import Launch, asynchronous_copies, spilled_bytes
from spvnas_ros.kernels.cuda import gradient_kernels
from spvnas_ros.sparse.on_cuda import PAIRS

TARGETS = ((80, "fp16"), (80, "fp32"), (90, "fp16"))
BYTES = {"fp16": 2, "fp32": 4}
OPTIONS = (("num_warps", 4), ("num_stages", 2))


def launches(dtype: str) -> list[Launch]:
    """Both kernels at their largest blocks, for widths that are multiples of 16."""
    rows = {"in_rows": "*i32", "out_rows": "*i32", "tasks": "*i32", "partial": "*fp32"}
    numbers = dict.fromkeys(("in_stride", "grad_stride", "in_width", "out_width"), "i32")
    blocks = {"PAIRS": PAIRS[BYTES[dtype]], "INPUTS": 64, "OUTPUTS": 64}
    signature = {"feats": f"*{dtype}", "grad": f"*{dtype}", **rows, **numbers, **dict.fromkeys(blocks, "constexpr")}
    outer = Launch(
        gradient_kernels.sum_outer_products,
        tuple(signature.items()),
        tuple(range(len(signature) - len(blocks))),
        tuple(blocks.items()),
        OPTIONS,
    )
    signature = {"partial": "*fp32", "starts": "*i32", "out": f"*{dtype}", "size": "i32", "BLOCK": "constexpr"}
    added = Launch(gradient_kernels.add_partial, tuple(signature.items()), (0, 1, 2, 3), (("BLOCK", 1024),), ())
    return [outer, added]


def main() -> None:
    """Compile and tell."""
    found = []
    for capability, dtype in TARGETS:
        for launch in launches(dtype):
            compiled = launch.compile(capability)
            copies = asynchronous_copies(compiled)
            found.append({"name": launch.name, "dtype": dtype, "spilled": spilled_bytes(compiled), "copies": copies})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
