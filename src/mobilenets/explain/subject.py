"""The picture and the networks that the page looks into."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mobilenets import checkpoint as checkpoints
from mobilenets import zoo
from mobilenets.errors import EnvironmentFault, MissingExtra, UnknownName
from mobilenets.network import MobileNet, build, from_checkpoint, reestimate_norms
from mobilenets.pictures import load
from mobilenets.preprocessing import Preprocessing, for_channels, normalise, prepare
from mobilenets.spec import Spec

SAMPLE = "china.jpg"
CREDIT = (
    "Photograph: china.jpg from scikit-learn's sample images, by danielbuechele (Flickr photo 6061409035), "
    "licensed CC BY 2.0; cropped and scaled here."
)
"""As scikit-learn's README for its sample images states it; a test compares the two."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The picture that everything on the page is shown with."""

    image: Image.Image
    name: str
    credit: str = ""


def open_sample(picture: str | Path | None) -> Sample:
    """The picture in a file, or scikit-learn's photograph of a temple.

    Raises `PictureError` naming the file, `MissingExtra` where scikit-learn is not installed.
    """
    if picture is not None:
        return Sample(load(picture), Path(picture).name)
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise MissingExtra("the sample photograph", "train", "scikit-learn") from error
    try:
        pixels = load_sample_image(SAMPLE)
    except (OSError, AttributeError) as error:
        raise EnvironmentFault(
            f"scikit-learn's sample photograph {SAMPLE} is not where it should be ({error}).",
            remedy="Give a picture of your own with --picture FILE.",
        ) from error
    return Sample(Image.fromarray(pixels), SAMPLE, CREDIT)


@dataclass(frozen=True, slots=True)
class Subject:
    """A network ready to look into, and what it makes of pictures."""

    network: MobileNet
    preprocessing: Preprocessing
    trained: bool
    """Whether its weights come from a file; else they are freshly drawn."""
    name: str
    """What the user asked for, or the network's name."""

    @property
    def spec(self) -> Spec:
        """The network's description."""
        return self.network.spec


def open_subject(model: str | Path, sample: Sample) -> Subject:
    """The network of a NAME with fresh weights, or of a run folder or checkpoint with its own.

    Fresh weights are those of seed 0, their batch norms measured on `views` of the picture. Raises
    `UnknownName`, `CheckpointError` naming the file, `InputError` for other than 1, 3 or 4 channels.
    """
    path = Path(model)
    if str(model) not in zoo.names() and (path.exists() or path.suffix == ".safetensors"):
        stored = checkpoints.load(path)
        network, preprocessing = from_checkpoint(stored), stored.manifest.preprocessing
        return Subject(network, preprocessing, True, path.name or stored.spec.name)
    try:
        spec = zoo.build(str(model))
    except UnknownName as error:
        error.remedy = f"{error.remedy}\nOr give the path of a run folder or a checkpoint."
        raise
    return fresh(dataclasses.replace(spec, classes=2), sample)


def fresh(spec: Spec, sample: Sample) -> Subject:
    """`spec` with the weights of seed 0 and batch norms measured on the picture."""
    network, preprocessing = build(spec).eval(), for_channels(spec.channels)
    with torch.inference_mode():
        reestimate_norms(network, [views(sample, preprocessing, spec.resolution)])
    return Subject(network, preprocessing, False, spec.name)


def views(sample: Sample, preprocessing: Preprocessing, resolution: int) -> Tensor:
    """Four views of the picture, whole and cut, plain and mirrored: N×C×S×S, normalised."""
    whole = sample.image
    width, height = whole.size
    cut = whole.crop((width // 6, height // 6, max(1, width - width // 6), max(1, height - height // 6)))
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in (whole, cut)]
    pixels = np.stack([prepare(image, preprocessing, resolution) for image in (whole, cut, *mirrored)])
    return tensor(pixels, preprocessing)


def seen(sample: Sample, subject: Subject) -> NDArray[np.uint8]:
    """The picture as the network sees it: `uint8` S×S×C."""
    return prepare(sample.image, subject.preprocessing, subject.spec.resolution)


def tensor(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """`uint8` N×S×S×C to the N×C×S×S that the first convolution takes."""
    normalised = np.ascontiguousarray(normalise(pixels, preprocessing).transpose(0, 3, 1, 2))
    return torch.from_numpy(normalised)
