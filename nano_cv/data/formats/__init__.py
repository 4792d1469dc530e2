"""Readers of data set formats, one file per format, which turn a folder into `Pictures` per split.

Where nothing else states the splits, folders in the paths of the images may (COCO, VOC, tables).
Splits that a set lacks are taken out of `train`, or out of all images, by the hash of their names;
see `splitting.py`. Readers raise a `UserError` where files are missing or malformed, or where the
format has no targets for the task; the message names the file, and the line or object in it.
"""
