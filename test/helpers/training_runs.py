"""What the training's tests know of the small recipe's runs."""

from __future__ import annotations

STEPS = 8

KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from spvnas_ros.offline.training import command

class Recorder(command.Recorder):
    def on_train_batch_end(self, trainer, *others):
        super().on_train_batch_end(trainer, *others)
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
command.Recorder = Recorder
command.run(Path(sys.argv[1]), [], Path(sys.argv[2]))
"""
"""A training that is killed after its fifth step: its arguments are the recipe and the folder of the run."""
