"""Reads what recordings are stored in (rosbag2 folders and files, MCAP of any writer, ROS 1 bags) as channels and their
messages. `recordings/bags.py` calls `open_container`; what is inside a message is decoded by `message_kinds/`.
"""
