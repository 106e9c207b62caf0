"""The process around a node: its signals and exit status, its transport profile and its memory.

`ros/node/__main__.py` runs the node in it; the bag player, the replay and the trials are such processes, too.
"""
