"""Configuration: a command line goes in; a checked configuration or an error message comes out.

Read the modules in this order: `cli` runs a script, `checks` makes all checks, `options` composes
the YAML files, `schema` has the type of every key, and `space`, `from_weights` and `resume` handle
sweeps, weights files and resumed runs. Nothing here imports torch.
"""
