"""Describes what the launch files start: their arguments, and the processes as data. Only the files in `launch/` call
it.
"""
