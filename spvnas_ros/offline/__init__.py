"""Holds all work on labelled scans: data sets, evaluation, augmentation, training and the simulator. The commands in
`spvnas_ros.cli` and the demo call it; the node never imports it.
"""
