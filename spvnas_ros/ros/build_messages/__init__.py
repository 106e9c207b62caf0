"""Builds vision_msgs and tf2_msgs for rclpy on machines without ROS, from our own definitions, with gcc as the only
tool. `make messages` and users call it: python -m spvnas_ros.ros.build_messages

PyPI has the other packages that the node needs, but not these two. The definitions have the same fields as the packages
of a ROS distribution. A type's hash depends on nothing else, and every hash is compared with the distribution's, so
nodes on both sides understand each other.
"""
