"""Export: a trained task goes in; a checked version in a Triton model repository comes out.

Its ONNX file is compared with torch before, on real pictures.
"""
