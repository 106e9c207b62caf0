"""Holds the training on labelled scans: recipes, data loading, one Lightning module, and runs that can be resumed.
`spvnas train` calls it.
"""
