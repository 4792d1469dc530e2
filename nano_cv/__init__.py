"""nano-cv: from a folder of pictures to a trained, evaluated and tracked model."""

import os

# onnxruntime and MLflow do not tell their makers how they are used, unless you set these yourself.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
