"""Measurements of the cost of a frame and of a training step, beside the reference and other libraries.

The command `spvnas bench` calls `cpu`; `make bench-gpu` runs `gpu` as a module.
"""
