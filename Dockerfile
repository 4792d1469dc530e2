# NVIDIA's Triton with its own ONNX backend, and what the decoder of the model repository imports.
FROM nvcr.io/nvidia/tritonserver:24.10-py3

# The Python backend of 24.10 returns empty tensors under numpy 2.
RUN pip install --no-cache-dir "numpy==1.26.4" "pillow>=12.3,<14"

# docker-compose.yaml mounts nano_cv/ there; the stub may know only the folder it was started in.
WORKDIR /opt/nano-cv
ENV PYTHONPATH=/opt/nano-cv \
    PYTHONDONTWRITEBYTECODE=1
