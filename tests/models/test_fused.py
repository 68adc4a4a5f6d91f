"""Networks with folded BatchNorm: the same maps, and nothing of it in the detector itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medrd.config import make_config
from medrd.models.fused import fused, largest_difference
from medrd.run.model_folder import make_detector
from training import SMALL


@pytest.mark.parametrize(
    ("name", "teacher"),
    [
        *((name, "tf_efficientnet_lite0") for name in ("rd4ad", "stfpm", "rdseg", "edc")),
        ("recontrast", "resnet18"),
        ("rd4ad", "resnet18"),
        ("rd4ad", SMALL),
    ],
)
def test_fused_networks_give_the_same_maps(name: str, teacher: str) -> None:
    torch.manual_seed(0)
    model = {"name": name, "teacher": {"name": teacher, "weights": "random"}}
    detector = make_detector(make_config({"model": model, "recipe": {"size": 64}})).train()
    images, region = torch.rand(4, 3, 64, 64), torch.ones(4, 64, 64, dtype=torch.bool)
    for module in detector.modules():  # statistics of which nothing is 0 or 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    before = {key: value.clone() for key, value in detector.eval().state_dict().items()}
    quick = fused(detector)
    assert largest_difference(detector, quick, images, region) < 1e-4
    after = detector.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)

    def norms(network: nn.Module) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())

    assert norms(quick) < norms(detector) / 4
