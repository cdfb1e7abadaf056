"""The convolutional network: local filters, pooling, and one dense layer on top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .. import random
from ..errors import PureSGDError, check_count
from ..recipe import recorded
from .contract import Model, Params, check_example, sentenced
from .initial import he_dense, he_normal

__all__ = ["convnet"]


@recorded
@sentenced
def convnet(
    image_shape: Sequence[int] = (1, 8, 8), channels: Sequence[int] = (32, 64), classes: int = 10
) -> Model:
    """A small convolutional classifier: convolutions that halve the image, then a dense layer.

    For each entry of ``channels``: a 3x3 convolution that keeps the image's size, a rectifier,
    and, while both sides of the image are at least 2, the maximum over 2x2 patches, which halves
    them (an odd last row or column is dropped). The head is ``flatten(h) @ w + b``. Weights are
    normal of variance ``2 / inputs`` (He et al. 2015, arXiv:1502.01852), biases zero.

    Shapes: x ``image_shape``, which is (C, H, W); the output (classes,); the parameters
    ``{"convolutions": [{"w": (out, in, 3, 3), "b": (out,)}, ...], "head": {"w", "b"}}``.

    Raises:
        PureSGDError: an image without three axes, or a width that is not a positive int; in
            ``apply``, an ``x`` of another shape or dtype.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> model = ps.models.convnet()
        >>> params = model.init(ps.random.key(0))
        >>> params["head"]["w"].shape
        torch.Size([256, 10])
        >>> model.apply(params, torch.zeros(1, 8, 8)).shape
        torch.Size([10])
    """
    image, widths = tuple(image_shape), tuple(channels)
    if len(image) != 3:
        raise PureSGDError(
            "convnet",
            f"image_shape={image_shape!r} has {len(image)} axes, expected 3",
            "Pass (channels, height, width), such as (1, 28, 28)",
        )
    for index, size in enumerate(image):
        check_count("convnet", f"image_shape[{index}]", size)
    for index, width in enumerate(widths):
        check_count("convnet", f"channels[{index}]", width)
    check_count("convnet", "classes", classes)

    inputs = (image[0], *widths)  # what each convolution reads, then what the head reads
    height, width = image[1:]
    for _ in widths:
        height, width = _halved(height, width)

    def init(key: torch.Tensor, dtype: torch.dtype = torch.float32) -> Params:
        *keys, key_head = random.split(key, len(widths) + 1)
        convolutions = [
            {
                "w": he_normal(k, (out, into, 3, 3), 9 * into, dtype),
                "b": torch.zeros(out, dtype=dtype, device=key.device),
            }
            for k, into, out in zip(keys, inputs[:-1], widths, strict=True)
        ]
        head = he_dense(key_head, inputs[-1] * height * width, classes, dtype)
        return {"convolutions": convolutions, "head": head}

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        check_example("convnet", x, image, params["head"]["w"])
        for layer in params["convolutions"]:
            x = torch.relu(F.conv2d(x, layer["w"], layer["b"], padding=1))
            if min(x.shape[1:]) >= 2:
                x = F.max_pool2d(x, 2)
        return x.flatten() @ params["head"]["w"] + params["head"]["b"]

    return Model(init, apply)


def _halved(height: int, width: int) -> tuple[int, int]:
    return (height // 2, width // 2) if min(height, width) >= 2 else (height, width)
