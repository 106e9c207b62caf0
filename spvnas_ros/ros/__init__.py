"""Holds all that runs in ROS 2: the node, replays, live topics and launching; apart from `trials/`, only this room
imports rclpy and message packages. ROS starts the node and the bag player; the commands, the trials and the demo
import the rest.
"""
