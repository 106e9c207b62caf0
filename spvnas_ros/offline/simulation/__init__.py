"""Holds the simulator of a LiDAR in generated streets: streets, sensors, rays, drives, writers, and the comparison with
real scans. `spvnas simulate`, training and the demo call it.
"""
