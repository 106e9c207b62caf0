"""Sends recorded clouds to the node: a bag player, a replay that measures in real time, and an exchange of one cloud at
a time. The launch file segment.launch.py starts the bag player, the command `spvnas` calls the replay, and the
trials and the demo use the exchange.
"""
