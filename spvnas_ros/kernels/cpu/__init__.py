"""Loops that numba compiles for the CPU: octree, kernel maps, convolutions, gradients and softmax.

`engine.cpu` calls them to label clouds, and `sparse.on_cpu` calls them for networks in training.
"""
