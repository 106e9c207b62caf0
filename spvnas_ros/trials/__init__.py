"""Trials that are hard on the node: load, garbage, mishaps, leaks, and a tour of its whole life on all its topics.

`make soak`, `make demo` and the tests run them; the node needs none of them.
"""
