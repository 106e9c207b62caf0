"""Readers of other projects' checkpoints: their torch files, their tensor names, and pickles that stay inert.

`zoo.fetch` and the command `spvnas import` call `projects.import_checkpoint`.
"""
