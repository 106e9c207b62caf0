"""The ROS 2 side: the only room that imports rclpy and message packages. Nothing in the other rooms imports it."""
