"""Describes what the launch files start: arguments, and processes as data. Only the files in `launch/` import it."""
