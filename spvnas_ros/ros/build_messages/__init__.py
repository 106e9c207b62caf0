"""vision_msgs and tf2_msgs for rclpy on machines without ROS, from definitions of ours, with gcc alone.

python -m spvnas_ros.ros.build_messages

They are not on PyPI, unlike the rest of what the node needs. The definitions name the same fields as the packages of a
ROS distribution, so nodes here and there understand each other: a type's hash depends on nothing else, and every hash
is checked against the distribution's.
"""
