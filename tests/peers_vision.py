"""torchvision, also where its operators were built for another torch than this: its models need none of them.

Import this first: libraries that look for torchvision import it.
"""

from __future__ import annotations

import sys
from importlib import import_module

import torch

try:
    import_module("torchvision")
except RuntimeError:
    # What declares an operator takes it away when it goes, so it stays here.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_module("torchvision")

#: The models of torchvision.
models = sys.modules["torchvision.models"]
