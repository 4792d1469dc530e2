"""Configuration: what a person typed goes in; a checked configuration or one message comes out.

Read it in this order: `cli` runs a script, `checks` tells the story of a check, `options` composes
the YAML files, `schema` knows every key, `space`, `from_weights` and `resume` know what sweeps,
weights and resumed runs ask for. Nothing here imports torch.
"""
