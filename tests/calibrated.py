"""Checkpoints with random weights whose logits are worth comparing.

A freshly initialised network answers nearly the same for every picture. Measured norm statistics and
a spread-out classifier give logits that a wrong channel order, padding or scale would change.
"""

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

from mobilenets.checkpoint import Checkpoint, Manifest  # noqa: E402
from mobilenets.network import build, reestimate_norms, to_tensors  # noqa: E402
from mobilenets.preprocessing import for_channels  # noqa: E402
from mobilenets.spec import Block, Conv, LayerScale, MultiQueryAttention, Spec, SqueezeExcite  # noqa: E402

TINY = Spec(
    name="tiny",
    source="tests",
    blocks=(
        Block((Conv("conv", 3, 8, 2, "hard_swish"),), stage=0),
        Block(
            (
                Conv("expand", 1, 16, 1, "relu6"),
                Conv("depthwise", 5, 16, 1, "hard_swish", depthwise=True),
                SqueezeExcite(4),
                Conv("project", 1, 8),
            ),
            stage=1,
            residual=True,
        ),
        Block((Conv("depthwise", 3, 8, 2, "relu", depthwise=True), Conv("pointwise", 1, 12)), stage=2),
        Block((MultiQueryAttention(12, 2, 4, kv_stride=2), LayerScale(0.5)), stage=2, residual=True),
        Block((Conv("expand", 3, 24, 1, "gelu", groups=2), Conv("project", 1, 12)), stage=2, residual=True),
    ),
    head=(Conv("hidden", 1, 24, 1, "hard_swish", norm=False),),
    classes=5,
    resolution=32,
    padding="same",
)
"""Every kind of op at once, small enough to export in a second or two."""


def calibrated(spec: Spec = TINY, *, labels: tuple[str, ...] | None = None, seed: int = 0) -> Checkpoint:
    network = build(spec, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    side = spec.resolution
    reestimate_norms(
        network, [torch.rand(8, spec.channels, side, side, generator=generator) * 2 - 1 for _ in range(2)]
    )
    with torch.no_grad():
        network.classifier.bias.normal_(generator=generator)
    if labels is None:
        labels = tuple(f"class {index}" for index in range(spec.classes))
    preprocessing = for_channels(spec.channels, mean=0.45, std=0.25)
    return Checkpoint(Manifest(spec, labels, preprocessing), to_tensors(network))


def with_manifest(checkpoint: Checkpoint, **changes: object) -> Checkpoint:
    manifest = dataclasses.replace(checkpoint.manifest, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(checkpoint, manifest=manifest)
