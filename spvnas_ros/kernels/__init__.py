"""Compiled inner loops on plain arrays, for the CPU (numba) and for CUDA (Triton), and their voxel numbering (`grid`).

`sparse` calls them for networks in training, and `engine` calls them to run trained networks.
"""
