"""Measurements: what a frame costs, beside the reference and beside other libraries, in one run on one machine."""
