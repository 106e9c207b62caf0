"""Holds the node `segmenter`, from the callback of a cloud to the published labels. ROS starts it as `segmenter_node`;
replays, trials and the demo run it too, and read its topic names and statistics.
"""
