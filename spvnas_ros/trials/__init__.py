"""Trials that are hard on the node: load, garbage, mishaps, leaks, and a tour of its whole life with an ear on every topic.

`make soak`, `make demo` and the tests run them; the node needs none of them.
"""
