"""Formats: a folder as some program wrote it goes in; pictures with targets come out, per split.

One file per format.
"""
