"""Training: a task and batches go in; the weights of the best epoch come out, with metadata."""
