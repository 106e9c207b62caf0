"""Triton kernels for CUDA: the geometry of a scan, sparse convolutions and their gradients.

`engine.cuda` calls them to label clouds, and `sparse.on_cuda` calls them for networks in training.
"""
