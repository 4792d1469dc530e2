"""Readers of data set formats, one file per format, which turn a folder into `Pictures` per split.

They raise a `UserError` where files are missing or malformed, or where the format has no targets
for the task. The message names the file, and the line or object in it.
"""
