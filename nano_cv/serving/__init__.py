"""Serving: a model repository goes in; answers come out. Nothing here imports torch."""
