"""What the training's tests know of the small recipe's runs, and runs in processes of their own.

These come from a server that has imported the training once, and has done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import closing
from multiprocessing.context import ForkServerContext
from pathlib import Path
from socket import create_server

import torch
from lightning.pytorch import Trainer

from spvnas_ros.offline.training import command

STEPS = 8


def killed(recipe: Path, out: Path) -> None:
    """A training that is killed after its fifth step."""
    process = _server().Process(target=_train_until_killed, args=(recipe, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def train_in_two(recipe: Path, overrides: list[str], out: Path) -> None:
    """A training in two processes of one thread each, which are told of each other as torchrun would tell them."""
    with closing(create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    processes = [_server().Process(target=_train_as, args=(rank, port, recipe, overrides, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([command.__name__])
    return context


def _train_until_killed(recipe: Path, out: Path) -> None:
    end = command.Recorder.on_train_batch_end

    def end_until_killed(recorder: command.Recorder, trainer: Trainer, *others: object) -> None:
        end(recorder, trainer, *others)  # type: ignore[arg-type]
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    # Not a subclass: Lightning restores the state of a callback of the same name only.
    command.Recorder.on_train_batch_end = end_until_killed  # type: ignore[assignment,method-assign]
    command.run(recipe, [], out)


def _train_as(rank: int, port: int, recipe: Path, overrides: list[str], out: Path) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update({name: str(value) for name, value in (told | where).items()})
    torch.set_num_threads(1)
    sys.exit(command.run(recipe, overrides, out))
