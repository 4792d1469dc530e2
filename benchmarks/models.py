"""Size and speed of each shipped model, untrained: what to expect before a training.

    python benchmarks/models.py --threads 2

Each model is exported as `export_model.py` does, for ten classes, and answers one picture at a time
in onnxruntime. The rounds go through all models in turn, so that a busy moment harms none alone.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import hydra
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from nano_cv import building
from nano_cv.config.options import CONFIGS
from nano_cv.evaluation.exported import Onnx
from nano_cv.export import graph
from nano_cv.metadata import height_width
from nano_cv.training import starting

CLASSES = [f"class {number}" for number in range(10)]


def export(name: str, folder: Path) -> dict[str, Any]:
    """Export the model of `configs/model/<name>.yaml`; return task, parameters, size and inputs."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", [f"model={name}"])
    size = building.size_of(config)
    metadata = starting.describe_model(config, CLASSES, size)
    task = building.make_task(config, metadata).eval()
    graph.export(task, folder / f"{name}.onnx")
    return {
        "task": metadata.task,
        "parameters": sum(parameter.numel() for parameter in task.network.parameters()),
        "size": "x".join(map(str, height_width(size))),
        "inputs": {key: value.numpy() for key, value in task.example_inputs(1).items()},
    }


def main() -> None:
    """Print a row per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime; 0: all cores")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.manual_seed(0)
    names = {file.stem for file in CONFIGS.glob("model/*.yaml")}
    names -= {"timm"}  # the user names its network
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for name in names:
            models[name] = export(name, Path(folder))
            models[name]["engine"] = Onnx(Path(folder) / f"{name}.onnx", given.threads)
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(given.rounds):
            for name, model in models.items():
                begun = time.perf_counter()
                model["engine"].predict(model["inputs"])
                seconds[name].append(time.perf_counter() - begun)
    print("| model | task | parameters | input | ms per picture | quartiles |")
    print("|---|---|--:|---|--:|---|")
    for name, model in sorted(models.items(), key=lambda pair: (pair[1]["task"], pair[0])):
        low, high = np.quantile(seconds[name], [0.25, 0.75]) * 1000
        print(
            f"| `{name}` | {model['task']} | {model['parameters'] / 1e6:.2f} M | {model['size']} | "
            f"{median(seconds[name]) * 1000:.1f} | {low:.1f} to {high:.1f} |"
        )


if __name__ == "__main__":
    main()
