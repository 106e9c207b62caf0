"""Builds message packages for rclpy on machines without ROS, from our own definitions, with gcc as the only tool.
`make messages` and users call it: python -m spvnas_ros.ros.build_messages

PyPI has the other packages that the node needs, but not vision_msgs, tf2_msgs and those of compressed clouds and of
Livox. The definitions have the same fields as the packages themselves. A type's hash depends on nothing else, and every
hash is compared with theirs, so nodes on both sides understand each other.
"""
