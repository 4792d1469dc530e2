# NVIDIA's Triton with its own ONNX backend, and what the front door and the decoders import.
# Not older than 26.07: NVIDIA's security bulletins 5816, 5828, 5865 and 5875 name what is mended.
FROM nvcr.io/nvidia/tritonserver:26.07-py3

RUN pip install --no-cache-dir "fastapi>=0.115,<1" "uvicorn>=0.34,<1" "hydra-core>=1.3.8,<1.4" \
    "omegaconf>=2.3.1,<2.4" "pydantic>=2.10,<3" "tritonclient[grpc]>=2.73,<3" "safetensors>=0.8,<1" \
    "matplotlib>=3.11,<4" "rich>=15,<16" "psutil>=7.2,<8" "filelock>=3.20,<5" "pyyaml>=6.0.2,<7" \
    "numpy>=1.26.4,<3" "pillow>=12.3,<14" "onnxruntime>=1.31,<2" "openvino>=2026.4,<2027"

# docker-compose.yaml mounts the project there; the stub may know only the folder it was started in.
WORKDIR /opt/nano-cv
ENV PYTHONPATH=/opt/nano-cv \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 1000:1000
