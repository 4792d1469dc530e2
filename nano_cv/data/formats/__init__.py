"""Readers of data set formats, which turn a folder into `Pictures` per split.

One file per format.
"""
