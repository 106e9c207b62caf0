"""Examines a live topic, and tells whether ROS is installed at all. `spvnas doctor /topic` calls the topic doctor, and
the commands that need ROS and the demo call `need_ros`.
"""
