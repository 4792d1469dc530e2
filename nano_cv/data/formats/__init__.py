"""Readers of data set formats, one file per format, which turn a folder into `Pictures` per split.

Splits that a set does not state are those of the folders in the paths of the images, or are taken
out of `train` by the hash of their names; see `splitting.py`. Readers raise a `UserError` where
files are missing or malformed, or where the format has no targets for the task; the message names
the file, and the line or object in it.
"""
