"""What the CUDA engine launches, recorded without a GPU, and compiled for GPUs that are not here.

    python test/helpers/cuda_launches.py 80 90        one line of JSON per kernel and compute capability

A process of its own: where the interpreter is on, triton compiles nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from spvnas_ros.engine.cuda.launches import Frame, Network, Wanted
from spvnas_ros.engine.plan import Plan, build_plan
from spvnas_ros.kernels.cuda.blocks import Precision
from spvnas_ros.kernels.cuda.geometry import Capacity
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet

GENERATIONS = (75, 80, 90)
"""One capability of each way that Triton multiplies matrices."""

_OPTIONS = ("num_warps", "num_stages")
_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}


@dataclass(frozen=True)
class Launch:
    """One compiled form of a kernel: types, alignment and constants as Triton would tell them from the arguments."""

    kernel: JITFunction[Any]
    signature: tuple[tuple[str, str], ...]
    aligned: tuple[int, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    def __getitem__(self, constant: str) -> Any:
        return dict(self.constants)[constant]

    def compile(self, capability: int) -> CompiledKernel:
        source = ASTSource(
            fn=self.kernel,
            signature=dict(self.signature),
            constexprs=dict(self.constants),
            attrs={(i,): [["tt.divisibility", 16]] for i in self.aligned},
        )
        options = {"enable_fp_fusion": True, **dict(self.options)}
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@cache
def _net() -> PointVoxelUNet:
    """SPVCNN W32 with a box branch, whose range is small: what it has no kernel of its own for runs here. The weights
    are the same for every GPU.
    """
    torch.manual_seed(0)
    classes = (
        BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35),
        BoxClass("person", (0.7, 0.7, 1.75), -1.65, 0.4, 0.25),
    )
    branch = BoxBranchSpec.around(0.05, classes, width=32, reach=3.2)
    return PointVoxelUNet(replace(NetSpec.spvcnn(32), boxes=branch)).eval()


@cache
def _plan() -> Plan:
    return build_plan(_net())


def launches(plan: Plan, precision: Precision, capability: int, multiprocessors: int = 0) -> list[Launch]:
    """Every distinct launch of a frame for labels and boxes, in order, on a GPU of so many multiprocessors."""
    found: list[Launch] = []

    def record(kernel: JITFunction[Any], _: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        found.append(_launch(kernel, arguments, constants))

    cpu = torch.device("cpu")
    network = Network(
        plan, 0.05, precision, cpu, capability=capability, multiprocessors=multiprocessors, branch=_net().boxes
    )
    with torch.inference_mode():
        Frame(network, Capacity(1024, (1024,) * 5), record).run(Wanted(boxes=True))
    return list(dict.fromkeys(found))


def asynchronous_copies(compiled: CompiledKernel) -> int:
    """Instructions that load shared memory while the matrix units work: the mark of a pipelined loop."""
    return len(re.findall(r"cp\.async\.c[ag]", compiled.asm["ptx"]))


def spilled_bytes(compiled: CompiledKernel) -> int:
    """Bytes of local memory that each thread needs because its registers do not suffice, as the machine code says."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    sizes = re.findall(r"(?:STACK|LOCAL):(\d+)", text)
    assert sizes, text
    return sum(map(int, sizes))


def _launch(kernel: JITFunction[Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Launch:
    options = {k: v for k, v in keywords.items() if k in _OPTIONS}
    values = dict(zip(kernel.arg_names, args, strict=False)) | {k: v for k, v in keywords.items() if k not in _OPTIONS}
    signature, aligned, constants = {}, [], {}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            aligned += [index] * (value.data_ptr() % 16 == 0)
        else:
            signature[name] = "i32"
            aligned += [index] * (value % 16 == 0)
    return Launch(kernel, tuple(signature.items()), tuple(aligned), tuple(constants.items()), tuple(options.items()))


def _heaviest(found: list[Launch]) -> Launch:
    return max(found, key=lambda launch: launch["ROWS"] * launch["COLUMNS"] * launch["DEPTH"] * launch["WIDTH"])


def chosen(precision: Precision, capability: int, everything: bool) -> list[Launch]:
    """The launches that need most registers and shared memory of an SPVCNN, or one of each kernel besides."""
    found = launches(_plan(), precision, capability)
    on_a_large_gpu = launches(_plan(), precision, capability, multiprocessors=132)
    convolutions = [launch for launch in (*found, *on_a_large_gpu) if launch.name == "convolve"]
    fusions = [launch for launch in found if launch.name == "fuse_points" and launch["LEVEL"] > 0]
    splits = (False, True) if capability in GENERATIONS else (False,)
    skipping = [[c for c in convolutions if c["SKIP_WIDTH"] and c["SPLIT"] is split] for split in splits]
    heaviest = [*map(_heaviest, skipping), _heaviest(fusions)]
    if not everything:
        return heaviest
    others = {launch.name: launch for launch in on_a_large_gpu if launch.name not in ("convolve", "fuse_points")}
    return [*heaviest, _heaviest([c for c in convolutions if not c["SORTED"]]), *others.values()]


def _report(launch: Launch, precision: Precision, capability: int) -> dict[str, Any]:
    compiled = launch.compile(capability)
    return {
        "kernel": launch.name,
        "precision": precision,
        "capability": capability,
        "spilled": spilled_bytes(compiled),
        "shared": compiled.metadata.shared,
        "copies": asynchronous_copies(compiled),
        "products": len(re.findall(r"mma\.sync|wgmma\.mma_async", compiled.asm["ptx"])),
    }


def main(capabilities: list[int]) -> None:
    for capability in capabilities:
        for launch in chosen("fp16", capability, everything=capability == 90):
            print(json.dumps(_report(launch, "fp16", capability)), flush=True)
    others: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in others:
        for launch in chosen(precision, 80, everything=False):
            print(json.dumps(_report(launch, precision, 80)), flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
