"""Data: files go in; `(images, targets)` batches come out."""
