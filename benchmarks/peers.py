"""Other toolkits on the same pictures, with the same weights to start from, in the same time.

    pip install segmentation-models-pytorch ultralytics
    git clone --depth 1 https://github.com/huggingface/pytorch-image-models
    python benchmarks/peers.py --data FOLDER --timm pytorch-image-models --minutes 30 \
        --only dsb2018_nuclei

FOLDER holds the sets of `benchmarks/sets.py`. Each peer is used as its own examples show, with one
thread, for so many minutes: as many as `sets.py` prints for our recipe. What is not equal:

- timm's script starts from ImageNet's weights, trains with RandAugment and random crops at 224
  pixels, and its number of epochs is chosen so that they take the minutes.
- segmentation_models.pytorch: a U-Net whose encoder has ImageNet's weights, Dice and cross-entropy,
  Adam with one cycle of the learning rate, flips, pictures stretched to one size; scored as ours at
  the size of the pictures.
- ultralytics: YOLO11n at 320 pixels, from random weights as `model=centernet` is, with its own
  augmentation and its own mAP50.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

sys.path.insert(0, str(Path(__file__).parents[1]))

from nano_cv.networks.pretrained import LITE0, imagenet_weights

CLASSES, BOXES = ("flowers5", "grocery81"), ("bccd", "boards", "fork_scissors")
MASKS = {"dsb2018_nuclei": (320, 320), "roads": (256, 416)}  # height and width that are trained on
MEAN, STD = 0.5, 0.5  # as the weights of Lite0 were trained


def classify(root: Path, minutes: float, script: Path, folder: Path) -> dict[str, float]:
    """Test accuracy of timm's own script."""
    weights = folder / "lite0.safetensors"
    from safetensors.torch import save_file

    # The last layer has another number of classes; timm leaves it out if it is not there.
    tensors = {name: value.contiguous() for name, value in imagenet_weights(LITE0).items()}
    save_file(tensors, weights)

    def run(epochs: int, name: str) -> float:
        command = [sys.executable, str(script / "train.py"), "--data-dir", str(root)]
        command += ["--val-split", "val", "--model", LITE0, "--initial-checkpoint", str(weights)]
        options: dict[str, Any] = {
            "num-classes": len(list((root / "train").iterdir())),
            "epochs": epochs,
            "batch-size": 32,
            "opt": "adamw",
            "lr": 5e-4,
            "weight-decay": 0.05,
            "warmup-epochs": 1,
            "cooldown-epochs": 0,
            "aa": "rand-m9-mstd0.5",
            "smoothing": 0.1,
            "device": "cpu",
            "workers": 0,
            "output": folder,
            "experiment": name,
        }
        for key, value in options.items():
            command += [f"--{key}", str(value)]
        start = time.monotonic()
        subprocess.run([*command, "--no-prefetcher"], check=True, capture_output=True)
        return time.monotonic() - start

    first, third = run(1, "pace1"), run(3, "pace3")
    pace = (third - first) / 2
    run(max(2, round(minutes * 60 / pace)), "whole")
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config

    model = timm.create_model(LITE0, num_classes=len(list((root / "train").iterdir())))
    best = torch.load(folder / "whole" / "model_best.pth.tar", weights_only=False)  # our own file
    model.load_state_dict(best["state_dict"])
    model.eval()
    dataset = create_dataset("", root=str(root), split="test")
    config = resolve_data_config({}, model=model)
    loader = create_loader(
        dataset,
        config["input_size"],
        32,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        use_prefetcher=False,
        num_workers=0,
        device=torch.device("cpu"),
    )
    right = 0
    with torch.inference_mode():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
    return {"accuracy": right / len(dataset)}


def segment(root: Path, minutes: float, size: tuple[int, int]) -> dict[str, float]:
    """Test IoU of a U-Net of segmentation_models.pytorch."""
    import segmentation_models_pytorch as smp

    lines = (root / "classes.txt").read_text().split("\n")
    classes = [line.split()[-1] for line in lines if line.strip()]

    def load(split: str) -> list[tuple[Tensor, Tensor]]:
        found = []
        for name in (root / f"{split}.txt").read_text().split():
            (picture,) = (root / "images").glob(f"{name}.*")
            (mask,) = (root / "masks").glob(f"{name}.*")
            pixels = np.asarray(Image.open(picture).convert("RGB").resize(size[::-1]), np.uint8)
            found.append(
                (
                    torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
                    torch.from_numpy(np.array(Image.open(mask), np.int64)),
                )
            )
        return found

    train, test = load("train"), load("test")
    targets = [
        interpolate(mask[None, None].float(), size, mode="nearest")[0, 0].long()
        for _, mask in train
    ]
    model = smp.Unet(f"tu-{LITE0}", encoder_weights=None, classes=len(classes))
    model.encoder.model.load_state_dict(imagenet_weights(LITE0), strict=False)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    start, steps, batch = time.process_time(), 0, 8

    def spent() -> float:
        return (time.process_time() - start) / (minutes * 60)

    while spent() < 1:
        order = torch.randperm(len(train), generator=generator)
        for indices in order.split(batch):
            if len(indices) < 2 or (share := spent()) >= 1:
                break
            images = torch.stack([train[index][0] for index in indices]).float() / 255
            masks = torch.stack([targets[index] for index in indices])
            for axis in (-1, -2):
                if torch.rand((), generator=generator) < 0.5:
                    images, masks = images.flip(axis), masks.flip(axis)
            # One cycle by the time that has passed, as the number of steps is not known.
            rate = min(1.0, share / 0.1) * 0.5 * (1 + np.cos(np.pi * share))
            optimizer.param_groups[0]["lr"] = 1e-3 * rate
            logits = model((images - MEAN) / STD)
            loss = cross_entropy(logits, masks, ignore_index=255) + dice(logits, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    model.eval()
    both, either = torch.zeros(len(classes)), torch.zeros(len(classes))
    with torch.inference_mode():
        for pixels, mask in test:
            logits = model((pixels[None].float() / 255 - MEAN) / STD)
            found = interpolate(logits, mask.shape, mode="bilinear")[0].argmax(0)
            known = mask != 255
            for index in range(len(classes)):
                shown, true = (found == index) & known, mask == index
                both[index] += (shown & true).sum()
                either[index] += (shown | true).sum()
    scores = both / either.clamp(min=1)
    named = {f"IoU/{name}": float(score) for name, score in zip(classes, scores, strict=True)}
    return {"mIoU": float(scores.mean()), **named, "steps": steps}


def detect(root: Path, minutes: float, folder: Path) -> dict[str, float]:
    """Test mAP50 of ultralytics' YOLO11n, by its command line."""
    for split in ("train", "val", "test"):
        content = json.loads((root / "annotations" / f"{split}.json").read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        order = sorted(names)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        lines: dict[Any, list[str]] = {one["id"]: [] for one in content["images"]}
        sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
        for one in content["annotations"]:
            (x, y, w, h), (width, height) = one["bbox"], sizes[one["image_id"]]
            box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            index = order.index(one["category_id"])
            lines[one["image_id"]].append(f"{index} {' '.join(map(str, box))}")
        for one in content["images"]:
            file = root / "images" / one["file_name"]
            (folder / "images" / split / file.name).symlink_to(file)
            text = "\n".join(lines[one["id"]])
            (folder / "labels" / split / f"{file.stem}.txt").write_text(text)
    listed = "".join(f"  {index}: {names[key]}\n" for index, key in enumerate(order))
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    (folder / "data.yaml").write_text(f"path: {folder}\n{splits}names:\n{listed}")
    options = [f"data={folder / 'data.yaml'}", f"project={folder}", "imgsz=320", "device=cpu"]
    options += ["workers=0", "plots=False", "verbose=False"]
    yolo = [str(Path(sys.executable).with_name("yolo")), "detect"]
    settings = ["model=yolo11n.yaml", f"time={minutes / 60}", "batch=16", "patience=0", "name=it"]
    subprocess.run([*yolo, "train", *settings, *options], check=True, capture_output=True)
    (best,) = folder.glob("**/best.pt")
    said = subprocess.run(
        [*yolo, "val", f"model={best}", "split=test", *options],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Pictures, objects, precision, recall, mAP50 and mAP of all classes together.
    (row,) = re.findall(r"^ *all +((?:[\d.e-]+ +){4}([\d.e-]+))", said, re.MULTILINE)
    return {"mAP50": float(row[1])}


def main() -> None:
    """Train the peer of each chosen set, and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--timm", type=Path, help="a checkout of pytorch-image-models")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", nargs="*", default=[*CLASSES, *BOXES, *MASKS], help="sets")
    given = parser.parse_args()
    if not given.timm and {*given.only} & {*CLASSES}:
        parser.error("--timm is needed for sets of classes")
    os.environ["OMP_NUM_THREADS"] = "1"  # of timm's script
    torch.set_num_threads(1)
    for name in given.only:
        root = given.data.absolute() / name
        with tempfile.TemporaryDirectory() as temporary:
            folder, start = Path(temporary), sum(os.times()[:4])
            if name in CLASSES:
                figures = classify(root, given.minutes, given.timm, folder)
            elif name in BOXES:
                figures = detect(root, given.minutes, folder)
            else:
                figures = segment(root, given.minutes, MASKS[name])
        used = os.times()
        minutes = (sum(used[:4]) - start) / 60
        shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        print(f"| {name} | {shown} | {minutes:.0f} CPU minutes |", flush=True)


if __name__ == "__main__":
    main()
