"""Configuration: what a person typed goes in; a checked configuration or one message comes out.

Nothing here imports torch.
"""
