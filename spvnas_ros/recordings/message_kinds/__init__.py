"""Turns recorded messages of any kind that holds a cloud into PointCloud2, one file a kind. `recordings/bags.py` asks
`kinds.py` which channels it can read.
"""
