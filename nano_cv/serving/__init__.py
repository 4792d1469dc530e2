"""Serving: Triton, its Python backend, and clients. Nothing here imports torch."""
