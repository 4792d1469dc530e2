"""Classifiers of the timm library, chosen by name (Wightman 2019, "PyTorch image models").

Shapes: B pictures, C channels, H height, W width, K classes.
"""

from typing import Any

import timm
from timm.models import group_parameters
from torch import Tensor, nn

from nano_cv.metadata import Size, height_width
from nano_cv.networks.pretrained import IMAGENET, LITE0, check_name, fill, imagenet_weights


class Backbone(nn.Module):
    """Classifier of the timm library; `configs/model/timm.yaml` explains the options.

    Only networks with a fixed input size, mostly transformers, use `image_size`. `dropout` is the
    share of the last features dropped in training; `drop_path` is from Huang et al. 2016. `frozen`
    stages, from the stem on, are not trained: pretrained ones detect edges and textures, which any
    photograph has, and each step is about twice as fast.
    """

    body: Any

    def __init__(
        self,
        num_classes: int,
        image_size: Size = 224,
        name: str = LITE0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        frozen: int = 0,
    ) -> None:
        super().__init__()
        check_name(name)
        options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": dropout}
        if drop_path:
            options["drop_path_rate"] = drop_path
        origin = timm.get_pretrained_cfg(name)
        if origin and origin.fixed_input_size:
            options["img_size"] = height_width(image_size)
        self.name = name
        self.body = timm.create_model(name, **options)
        if frozen:
            stages = group_parameters(self.body, self.body.group_matcher(coarse=True))
            if frozen >= len(stages):  # the last stage holds the classifier
                raise ValueError(
                    f"frozen={frozen}: {name} has {len(stages)} stages, one must learn"
                )
            for parameters in list(stages.values())[:frozen]:
                for parameter in parameters:
                    self.body.get_parameter(parameter).requires_grad_(False)
            self.train()

    @property
    def features(self) -> nn.Module:
        """Last stage with spatial features `[B, C, h, w]`, for Grad-CAM."""
        return self.body.get_submodule(self.body.feature_info[-1]["module"])

    @property
    def classifier(self) -> nn.Module:
        """Last layer, which turns features into logits."""
        return self.body.get_classifier()

    def embed(self, images: Tensor) -> Tensor:
        """Turn normalised images `[B, 3, H, W]` into the classifier's input features `[B, F]`."""
        return self.body.forward_head(self.body.forward_features(images), pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images `[B, 3, H, W]` into logits `[B, K]`."""
        return self.body(images)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the training mode, in which frozen batch norms keep their statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def load_pretrained(self) -> None:
        """Fill the network with weights learnt on ImageNet, and the classifier with zeros.

        Raises:
            UserError: timm has no weights of this network, or they cannot be fetched.
        """
        fill(self.body, imagenet_weights(self.name), IMAGENET)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)  # random values would disturb the pretrained layers at first
