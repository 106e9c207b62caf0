"""A LiDAR in a world made by rules: streets, sensors, drives."""
