"""Boxes around objects, on plain arrays: conventions of other projects (`conversions`), and how much boxes cover each
other (`overlap`).

Networks, evaluation and what reads or writes files of boxes call it. No torch, no ROS.
"""
