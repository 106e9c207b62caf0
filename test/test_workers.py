"""Workers end with the process they work for, however it ends. Linux tells them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from drives import write_drive
from places import RECIPES
from spvnas_ros.workers import give_way

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's process file descriptors")

PATIENCE = 60.0
"""Seconds in which workers must be gone; what they work on would take them minutes."""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


def test_a_thread_that_gives_way_leaves_the_others_as_they_are() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(give_way).result()
        assert pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result() == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


SIMULATING = """
import sys
from multiprocessing import active_children
from spvnas_ros.cli import app
from spvnas_ros.offline.simulation import drive

plain = drive.wait

def wait(*given, **options):
    print(*(child.pid for child in active_children()), flush=True)
    return plain(*given, **options)

drive.wait = wait
app(["simulate", "--scenes", "2", "--scans-per-scene", "10000", "--processes", "2", "--out", sys.argv[2]])
"""

TRAINING = """
import sys
from multiprocessing import active_children
from spvnas_ros.cli import app
from spvnas_ros.offline.training.task import SegmentationTask

plain = SegmentationTask.training_step

def training_step(self, *given):
    if not self.global_step:
        print(*(child.pid for child in active_children()), flush=True)
    return plain(self, *given)

SegmentationTask.training_step = training_step
app([
    "train", sys.argv[3], "data.simulate.scenes=0", "data.simulate.validation_scenes=0",
    f"data.train={sys.argv[1]}", "data.workers=2", "net={widths: [4, 4, 4, 4, 4, 4, 4, 4, 4]}", "trainer.batch_size=1",
    "trainer.steps=1000000", "trainer.device=cpu", "--out", sys.argv[2],
])
"""

STARTING = """
import subprocess, sys
from spvnas_ros.workers import command_of

server = subprocess.Popen(command_of("http.server", "--bind", "127.0.0.1", "0"), stdout=subprocess.PIPE, text=True)
server.stdout.readline()  # it serves
print(server.pid, flush=True)
server.wait()
"""
"""A program in place of a benchmark's contender or of the node."""


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    write_drive(folder, 3)
    return folder


def ended(descriptors: list[int]) -> Iterator[bool]:
    for descriptor in descriptors:
        yield bool(select.select([descriptor], [], [], PATIENCE)[0])


@pytest.mark.parametrize("signum", SIGNALS, ids=[each.name for each in SIGNALS])
@pytest.mark.parametrize("program", [SIMULATING, TRAINING, STARTING], ids=["simulate", "train", "program"])
def test_workers_end_with_their_process(program: str, signum: signal.Signals, drive: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", program, str(drive), str(tmp_path / "out"), str(RECIPES / "sim_tiny.yaml")],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
                text=True,
            )
        )
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        workers = [os.pidfd_open(pid) for pid in pids]
        for worker in workers:
            stack.callback(os.close, worker)
        try:
            assert len(workers) == (1 if program is STARTING else 2)
            process.send_signal(signum)
            assert list(ended(workers)) == [True] * len(workers)
        finally:
            process.kill()
            for worker in workers:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker, signal.SIGKILL)
