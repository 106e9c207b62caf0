"""The GPU benchmark: its arithmetic, its tables, and that nothing a contender does ends a run."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from places import REPOSITORY
from spvnas_ros.bench import gpu
from spvnas_ros.bench.cpu_worker import seeded
from spvnas_ros.bench.gpu_report import BEGIN, END, Row, Setting, markdown, place, row_of, stages_of
from spvnas_ros.bench.gpu_run import TIME_IS_UP, Book, Clock, Options, Run, gather, write
from spvnas_ros.bench.gpu_worker import Case, ContenderError, Event, Profile, Worker, summarise
from spvnas_ros.bench.roofline import Rates, Work, branch_work, floor_ms, measure_rates, plan_work
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.nets.cost import count_macs, count_parameters, stage_costs
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.sparse import build_levels, quantize

RATES = Rates(flops=1e12, bytes_per_second=1e11)
SETTING = Setting("a device", "scan.bin", 100, 90, 10, {"fp16": RATES})


def row(contender: str, p50: float, **more: object) -> Row:
    values = {"wall_p50": p50, "wall_p95": 2 * p50, "floor": 0.5, "flop": 10**9, "bytes": 10**7, "agree": 1.0}
    return Row("W16", "fp16", contender, **(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [NetSpec.spvcnn(8), NetSpec.minkunet(8), gpu.spvnas_like()])
def test_work_is_what_the_paper_counts_and_every_byte_once(full_scan: np.ndarray, spec: NetSpec) -> None:
    levels = build_levels(quantize(torch.from_numpy(full_scan[::4]), 0.1).coords)
    plan = build_plan(seeded(spec))
    half, full = (plan_work(plan, levels, itemsize) for itemsize in (2, 4))
    interpolated = 16 * len(levels.levels[0]) * sum(spec.point_widths[1:]) if spec.point_branch else 0
    means = len(levels.levels[0]) * sum(spec.point_widths[1:3]) if spec.point_branch else 0
    assert sum(half, Work(0, 0)).flop == 2 * count_macs(spec, levels) + interpolated + means
    indices = 2 * sum(work.bytes for work in half) - sum(work.bytes for work in full)
    assert 0 < indices < sum(work.bytes for work in half)
    # The last step reads its rows and its weights and writes the logits: nothing else.
    rows, (inputs, outputs) = len(levels.levels[0]), plan.steps[-1].sources[0].kernel.shape[1:]  # type: ignore[union-attr]
    assert full[-1] == Work(2 * rows * inputs * outputs, 4 * (rows * (inputs + outputs) + inputs * outputs))


def test_the_work_of_a_box_branch_is_what_it_costs() -> None:
    spec = gpu.spec_of("W16-boxes")
    levels = build_levels(torch.tensor([[0, 1, 2, 3], [0, 9, 2, 3], [0, 10, 2, 3]]))
    half, full = (branch_work(spec, levels, itemsize) for itemsize in (2, 4))
    assert sum(half, Work(0, 0)).flop == 2 * stage_costs(spec, levels)[-1].macs
    assert [2 * work.bytes for work in half] == [work.bytes for work in full]
    cells = 512 * 512  # the first convolution over the view reads 16 channels of every cell and writes 16
    assert full[1] == Work(2 * cells * 9 * 256, 4 * (2 * cells * 16 + 9 * 256))
    assert branch_work(gpu.spec_of("W16"), levels, 2) == []


def test_the_floor_is_the_slower_of_both_for_every_step() -> None:
    steps = [Work(flop=2 * 10**9, bytes=10**8), Work(flop=10**9, bytes=3 * 10**8)]
    assert floor_ms(steps, RATES) == pytest.approx(2.0 + 3.0)


def test_the_subnet_has_the_size_of_the_published_one() -> None:
    assert count_parameters(gpu.spvnas_like()) == pytest.approx(3.3e6, rel=0.01)


def test_rates_are_measured() -> None:
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert rates.flops > 1e8
    assert rates.bytes_per_second > 1e7


def test_a_profile_counts_kernels_launches_and_waits() -> None:
    events = [
        Event("cudaGraphLaunch", False, 5),
        Event("convolve", True, 100),
        Event("convolve", True, 200),
        Event("Memcpy HtoD (Pinned -> Device)", True, 50),
        Event("cudaEventSynchronize", False, 300),
        Event("cudaDeviceSynchronize", False, 9),
        Event("aten::mm", False, 7),
        Event("cuLaunchKernelEx", False, 7),
        Event("sm90_xmma_fprop_implicit_gemm_f16_nhwc", True, 30),
        Event("find_overlaps", True, 20),
    ]
    profile = summarise(events, {}, 12.0)
    assert (profile.kernels, profile.launches, profile.waits, profile.peak_mb) == (4, 2, 1, 12.0)
    stages = {"convolutions": 0.3, "copies": 0.05, "bird's-eye view": 0.03, "boxes": 0.02}
    assert stages_of(profile) == pytest.approx(stages)


def test_an_engines_own_laps_are_summed_by_stage_of_the_network() -> None:
    laps = {"voxels": 1.0, "stem.0": 2.0, "stem.1": 3.0, "encoder.1.blocks.0.first": 4.0, "encoder.1.transition": 5.0}
    stages = stages_of(Profile(0, 0, 0, {"gemm": 9.0}, laps, 0.0))
    assert stages == {"voxels": 1.0, "stem": 5.0, "encoder.1": 9.0}


def test_a_row_has_the_percentiles_of_all_turns_together() -> None:
    turns = [[1.0, 2.0, 3.0], [4.0, 101.0]]
    profile = summarise([Event("convolve", True, 400), Event("Memcpy DtoH", True, 100)], {}, 3.0)
    found = row_of(("W16", "fp16", "cuda"), turns, profile, [Work(10**9, 10**7)], RATES, 0.99)
    assert (found.wall_p50, found.device_ms) == (3.0, pytest.approx(0.5))
    assert found.wall_p95 == pytest.approx(float(np.percentile([1, 2, 3, 4, 101], 95)))
    assert found.floor == pytest.approx(1.0)


def test_the_table_compares_with_the_fastest_other_and_keeps_failures() -> None:
    rows = [
        row("cuda", 2.0),
        row("torch", 60.0),
        row("spconv", 8.0, profile_error="no"),
        Row("W16", "fp16", "torchsparse", error="a|b"),
    ]
    lines = markdown(SETTING, rows).splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| W16 ")]
    assert [cells[2] for cells in table] == ["cuda", "torch", "spconv", "torchsparse"]
    assert [cells[6] for cells in table[:3]] == ["4.0", "0.1", "1.0"]
    assert table[0][11:14] == ["50.0%", "5.0%", "4.0"]
    assert table[3][3] == "a/b"
    assert [table[2][5], *table[2][7:11]] == ["-"] * 5
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_tables_replace_what_stood_between_the_markers() -> None:
    document = f"# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n"
    once = place(document, "| new |")
    assert once == f"# Title\n\n{BEGIN}\n\n| new |\n\n{END}\n\nrest\n"
    assert place(once, "| new |") == once
    with pytest.raises(ValueError, match="no place for the tables"):
        place(f"{END} {BEGIN}", "x")


def test_the_documentation_has_a_place_for_the_tables() -> None:
    document = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    assert "| a table |" in place(document, "| a table |")


def test_parts_of_a_run_are_gathered_and_other_machines_left_out(tmp_path: Path) -> None:
    other = Setting("another", "scan.bin", 1, 1, 1, {"fp16": RATES})
    faster = Setting("a device", "scan.bin", 100, 90, 10, {"fp32": Rates(2e12, 3e11)})
    written = [
        ("a", other, [row("cuda", 9.0)]),
        ("c", SETTING, [row("cuda", 1.0, stages={"x": 1.0})]),
        ("b", faster, []),
    ]
    for number, (name, setting, rows) in enumerate(written):
        write(tmp_path / f"{name}.json", setting, rows)
        os.utime(tmp_path / f"{name}.json", (number, number))
    setting, rows = gather(tmp_path)
    assert rows == [row("cuda", 1.0, stages={"x": 1.0})]
    assert (setting.machine, setting.rates) == ("a device", {"fp16": RATES, "fp32": Rates(2e12, 3e11)})
    with pytest.raises(FileNotFoundError, match="run the benchmark first"):
        gather(tmp_path / "empty")


def test_a_row_is_in_the_files_before_the_next_one_is_measured(tmp_path: Path) -> None:
    found: list[list[Row]] = []
    book = Book(tmp_path / "out", SETTING, lambda _: found.append(gather(tmp_path / "out")[1]))
    rows = [row("cuda", 2.0), row("torch", 60.0), row("cuda", 2.0, train_p50=70.0)]
    for each in rows:
        book.put(each)
    assert found == [rows[:1], rows[:2], [rows[2], rows[1]]]
    case = Case("W16", NetSpec.spvcnn(1), "fp16")
    assert book.rows(case) == found[-1]
    assert "training step 70.0 ms" in rows[2].line()


def test_what_finds_no_time_is_in_the_table_as_such(tmp_path: Path) -> None:
    reported: list[Row] = []
    levels = build_levels(torch.tensor([[0, 1, 2, 3]]))
    workers = {"torch": Worker("torch", "cpu")}
    book = Book(tmp_path, SETTING, reported.append)
    over = Run(Options("cpu"), np.zeros((1, 4), np.float32), levels, workers, Clock(0.0), book, {"fp16": RATES})
    over.measure(Case("W1", NetSpec.spvcnn(1), "fp16"))
    over.train(Case("W1", NetSpec.spvcnn(1), "fp16"))
    assert [(r.contender, r.error) for r in reported] == [("torch", TIME_IS_UP)]
    assert Clock(float("inf")).limit(5.0) == 5.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--networks", "V16"), ("--precisions", "int8")])
def test_names_it_does_not_know_are_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", flag, value]) == 1
    assert value in capsys.readouterr().err


def test_a_contender_that_dies_is_an_error_and_the_next_question_finds_a_new_one() -> None:
    worker = Worker("torch", "cpu")
    case = Case("W1", NetSpec.spvcnn(1), "fp32")
    try:
        with pytest.raises(ContenderError, match="no engine was prepared"):
            worker.ask("frames", 1, timeout_s=300)
        points = np.random.default_rng(0).uniform(-2, 2, (200, 4)).astype(np.float32)
        assert len(worker.ask("prepare", case, points, timeout_s=300)) == 200
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        with pytest.raises(ContenderError, match="ended with status -9"):
            worker.ask("frames", 1, timeout_s=300)
    finally:
        worker.stop()


def test_a_run_on_the_cpu_prints_every_row_and_writes_the_tables(
    tmp_path: Path, full_scan: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    full_scan[:1000].tofile(tmp_path / "scan.bin")
    document = tmp_path / "benchmarks.md"
    document.write_text(f"{BEGIN}{END}")
    options = [
        "--networks",
        "W2",
        "--precisions",
        "fp32",
        "--contenders",
        "torch,steam",
        "--rounds",
        "1",
        "--frames",
        "1",
    ]
    places = ["--scan", str(tmp_path / "scan.bin"), "--out", str(tmp_path / "out"), "--docs", str(document)]
    assert gpu.main(["--device", "cpu", "--train-steps", "1", *options, *places]) == 0
    printed = capfd.readouterr().out
    assert "W2 fp32 torch: p50" in printed
    assert "W2 fp32 steam: KeyError: 'steam'" in printed
    assert "| W2 | fp32 | steam | KeyError" in document.read_text()
    rows = json.loads((tmp_path / "out" / "W2-fp32.json").read_text())["rows"]
    assert (rows[0]["contender"], rows[0]["agree"]) == ("torch", 1.0)
    assert min(rows[0]["wall_p50"], rows[0]["train_p50"], rows[0]["stages"]["geometry"]) > 0
