"""Reads recordings (scan files and rosbag2 bags), and writes bags and other files whole or not at all. Nearly all rooms
above it call it, from the model zoo to the demo; it needs no ROS.
"""
