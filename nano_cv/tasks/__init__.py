"""Tasks: a network with its loss, metrics, optimiser and `predict`, as Lightning modules."""
