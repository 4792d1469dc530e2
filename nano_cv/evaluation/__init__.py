"""Evaluation: a trained model and pictures go in; metrics, tables and drawings come out.

Whether torch, onnxruntime or a Triton server computes makes no difference here.
"""
