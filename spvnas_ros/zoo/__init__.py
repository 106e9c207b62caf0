"""Trained networks as files: checkpoints with their facts, the published models, their import, and blending.

`perception`, the commands, the node and training call it to load, fetch and save networks.
"""
