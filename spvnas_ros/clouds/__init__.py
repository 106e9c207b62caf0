"""One cloud before any network: its bytes and fields, its intensity, its usable points, its region and its place.

Node, commands, training, evaluation and doctor ask here, so that each question has one answer. Neither torch nor ROS.
"""
