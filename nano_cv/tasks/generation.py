"""Generation: pictures of a class out of noise, by a rectified flow.

Liu et al. 2022, "Flow straight and fast"; Lipman et al. 2022, "Flow matching". A straight line
leads from noise (time 0) to a picture (time 1). The network predicts the picture, and the direction
is computed from it: pictures are simpler than noise, so a small network predicts them better (Li
and He 2025, "Back to basics: let denoising generative models denoise").

Shapes: B pictures, H height, W width, K classes.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nano_cv.data.imagined import noise
from nano_cv.metadata import height_width
from nano_cv.tasks.task import Losses, Task

GOLDEN_RATIO = (5**0.5 - 1) / 2
MIN_REMAINING = 0.05  # smallest remaining time by which an error of the picture is divided
PREVIEWED = 8  # pictures drawn after each epoch, from the same noise


class Generation(Task):
    """Mean squared error of the direction from noise to picture.

    `configs/model/flow.yaml` explains the options. `guidance` multiplies the difference between the
    prediction for the class and that for any class (Ho and Salimans 2022, "Classifier-free
    guidance"); at 1 there is none.
    """

    monitor = "val/loss"
    mode = "min"
    traced = True  # the graph holds the network several times, once per call

    def __init__(
        self, steps: int = 8, guidance: float = 3.0, drop_label: float = 0.15, **options: Any
    ) -> None:
        super().__init__(**options)
        self.steps, self.guidance, self.drop_label = steps, guidance, drop_label
        self.any_class = len(self.metadata.classes)

    def predict(self, noise: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Turn noise into pictures of classes; the same noise and label give the same picture.

        Args:
            noise: standard normal float32 `[B, 3, H, W]`.
            labels: int64 `[B, 1]`.

        Returns:
            `IMAGES` uint8 `[B, 3, H, W]`.
        """
        pictures, labels, step = noise, labels[:, 0], 1 / self.steps
        for index in range(self.steps):
            here = self._velocity(pictures, index * step, labels)
            pictures, before = pictures + step * here, pictures
            if index + 1 < self.steps:  # Heun: the mean of the directions at start and end
                there = self._velocity(pictures, (index + 1) * step, labels)
                pictures = before + step / 2 * (here + there)
        pixels = pictures * self.std + self.mean
        return {"IMAGES": pixels.round().clamp(0, 255).to(torch.uint8)}

    def _velocity(self, pictures: Tensor, time: float, labels: Tensor) -> Tensor:
        both = torch.cat([pictures, pictures])
        which = torch.cat([labels, torch.full_like(labels, self.any_class)])
        times = torch.full_like(both[:, 0, 0, 0], time)
        cleaned = self.network(both, times, which).float()
        count = labels.shape[0]  # not `len`, which an export would take for a constant
        aim = cleaned[count:] + self.guidance * (cleaned[:count] - cleaned[count:])
        return (aim - pictures) / (1 - time)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """See `Task`."""
        size = height_width(self.metadata.image_size)
        labels = torch.zeros(batch, 1, dtype=torch.int64)  # Triton has no `[B]`
        return {"NOISE": torch.zeros(batch, 3, *size), "LABELS": labels}

    def training_losses(self, images: Tensor, labels: Tensor) -> Losses:
        """Loss of images `[B, 3, H, W]` in 0..255 and int64 labels `[B]`, at random times."""
        dropped = torch.rand(len(labels), device=labels.device) < self.drop_label
        # More times in the middle, which are the hardest (Esser et al. 2024, "Scaling rectified
        # flow").
        times = torch.randn(len(labels), device=labels.device).sigmoid()
        start = torch.randn(images.shape, device="cpu")
        labels = labels.masked_fill(dropped, self.any_class)
        return {"loss": self._loss(images, labels, times, start)}

    def validate(self, images: Tensor, labels: Tensor, places: Tensor) -> tuple[Losses, Any]:
        """Loss of a batch; an image has the same time and the same noise in every epoch."""
        times = (places.double() * GOLDEN_RATIO % 1).float().to(images.device)  # evenly spread
        start = np.stack([noise(0, place, images.shape[2:]) for place in places.tolist()])
        return {"loss": self._loss(images, labels, times, torch.from_numpy(start))}, None

    def _loss(self, images: Tensor, labels: Tensor, times: Tensor, start: Tensor) -> Tensor:
        pictures = (images.float() - self.mean) / self.std
        start = start.to(pictures.device)
        share = times[:, None, None, None]
        between = start * (1 - share) + pictures * share
        cleaned = self.network(between, times, labels).float()
        # An error of the direction is the error of the picture, divided by the remaining time.
        mistake = (cleaned - pictures) / (1 - share).clamp(min=MIN_REMAINING)
        return mistake.square().mean()

    @torch.inference_mode()
    def preview(self) -> NDArray[np.uint8]:
        """Pictures of every class from the same noise each time: uint8 `[N, 3, H, W]`."""
        labels = torch.arange(PREVIEWED)[:, None] % self.any_class
        size = self.metadata.image_size
        start = torch.from_numpy(np.stack([noise(0, index, size) for index in range(PREVIEWED)]))
        pictures = self.predict(start.to(self.mean.device), labels.to(self.mean.device))["IMAGES"]
        return pictures.cpu().numpy()
