"""Squeeze-and-excite: the gates that a picture opens and closes in a network."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.cost import count
from mobilenets.explain.figure import Figure, Idea, Source, compute, drawn, picture_of
from mobilenets.explain.subject import Sample, Subject, seen, tensor
from mobilenets.layers import ChannelGate
from mobilenets.network import MobileNet


class Gates(NamedTuple):
    """The gates of one block."""

    path: str
    squeeze: int
    picture: NDArray[np.float32]
    """One gate in [0, 1] per channel, for the picture."""
    grey: NDArray[np.float32]
    """The same for an even grey."""

    @property
    def median(self) -> float:
        """Of the picture's gates."""
        return float(np.median(self.picture))

    @property
    def closed(self) -> float:
        """Share of the gates that are exactly 0."""
        return float((self.picture == 0).mean())

    @property
    def opened(self) -> float:
        """Share of the gates that are exactly 1."""
        return float((self.picture == 1).mean())

    @property
    def moved(self) -> float:
        """Mean absolute difference between the picture's gates and the grey's."""
        return float(np.abs(self.picture - self.grey).mean())


@torch.inference_mode()
def gates(network: MobileNet, pictures: Tensor) -> list[Gates]:
    """The gates of every squeeze-and-excite for two pictures, 2×C×S×S, in the order of the network."""
    found: dict[str, Tensor] = {}
    modules = {path: module for path, module in network.named_modules() if isinstance(module, ChannelGate)}

    def keep(path: str, module: ChannelGate, x: Tensor) -> None:
        pooled = x.mean((2, 3), keepdim=True)
        inner = module.activation(module.reduce(pooled))
        found[path] = functional.hardsigmoid(module.expand(inner)).flatten(1)

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: keep(path, module, inputs[0]))
        for path, module in modules.items()
    ]
    try:
        network.forward_body(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Gates(path, _squeeze(modules[path]), found[path][0].numpy(), found[path][1].numpy())
        for path in modules
    ]


def _squeeze(module: nn.Module) -> int:
    assert isinstance(module, ChannelGate)
    return module.reduce.out_channels


def strip(row: Gates) -> NDArray[np.float64]:
    """A block's gates as a picture: above their values, below what the picture changed in them.

    One column a channel. The values are in [0, 1]; the change is divided by the largest of its block.
    """
    change = (row.picture - row.grey).astype(np.float64)
    largest = float(np.abs(change).max()) or 1.0
    gap = np.full(len(change), np.nan)
    values = row.picture.astype(np.float64)
    return np.stack([values] * 6 + [gap] + [change / largest] * 4)


def has_gates(subject: Subject) -> bool:
    """Whether there is squeeze-and-excite in the network."""
    return any(isinstance(module, ChannelGate) for module in subject.network.modules())


def make(subject: Subject, sample: Sample, note: str) -> Idea:
    """Section 6 of the page; `note` says where a model that was asked for could not be used."""
    pixels = seen(sample, subject)
    both = tensor(np.stack([pixels, np.full_like(pixels, 128)]), subject.preprocessing)
    rows = compute(gates, subject.network, both)
    strips = Figure(
        images=tuple(
            picture_of(
                strip(row),
                f"{row.path}: {len(row.picture)} gates from {row.picture.min():.2f} to "
                f"{row.picture.max():.2f}, median {row.median:.2f}.",
            )
            for row in rows.value
        ),
        caption=(
            "One strip for each block that has squeeze-and-excite, one column for each channel. Upper "
            "part: the gates, empty is closed (0), full blue is open (1). Lower part: what the picture "
            "changes in them, against an even grey; blue gates open further, orange ones close, on the "
            "block's own scale. The numbers give the mean change."
        ),
        source=Source("1905.02244", "section 5.3, Figure 4; squeeze-and-excite itself: arXiv 1709.01507"),
        code=rows.code,
        drawing=drawn(strip),
    )
    layers = count(subject.spec).layers
    share = sum(row.macs for row in layers if row.kind == "squeeze-and-excite") / sum(
        row.macs for row in layers
    )
    values = {"subject": subject, "note": note, "rows": rows.value, "share": share}
    return Idea("gates", "Squeeze-and-excite: gates of a picture", "Gates", {"strips": strips}, values)
