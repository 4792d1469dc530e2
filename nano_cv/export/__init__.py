"""A trained model to ONNX, compared with torch, and into a Triton repository that is checked."""
