"""Weights from elsewhere become checkpoints: `mobilenets import`.

What the file says is taken from it (architecture, width, classes, channels, and what lies beside it
or in it on preprocessing); what it cannot say comes from the caller, the table of published weights,
or the conventions of the library it is from. Every choice is told in a sentence.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mobilenets
from mobilenets import files, zoo
from mobilenets import spec as specs
from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import CheckpointError, InputError, LabelsError, MobilenetsError
from mobilenets.preprocessing import MODE_OF_CHANNELS, Preprocessing, for_channels
from mobilenets.progress import SILENT, Progress
from mobilenets.spec import Padding, Spec
from mobilenets.text import count, printable
from mobilenets.weights import catalogue, download, reading
from mobilenets.weights.catalogue import Published
from mobilenets.weights.source import IMAGENET_CLASSES, IMAGENET_MEAN, Found


@dataclass(frozen=True)
class Imported:
    """A checkpoint made from somebody else's file, and what was decided on the way."""

    checkpoint: Checkpoint
    decisions: tuple[str, ...]
    """What was found or assumed and why, in sentences; they are in the provenance too."""
    found: Found
    """What was in the files, before the caller's own wishes."""
    files: tuple[Path, ...]
    """What was read."""


def import_file(
    source: str | Path | Sequence[str | Path],
    *,
    padding: Padding | None = None,
    epsilon: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    labels: str | Path | None = None,
    resolution: int | None = None,
    licence: str | None = None,
    progress: Progress = SILENT,
) -> Imported:
    """Read somebody else's weights: of timm, torchvision, transformers, Keras, TFLite, or plain PyTorch.

    `source` is a file (`.pt`, `.pth`, `.bin`, `.safetensors`, `.h5`, `.keras`, `.tflite`), a folder as
    the Hugging Face hub has them, several TFLite files into which one network was cut, or the name of
    published weights (`mobilenets weights` lists them), which are downloaded once. `padding` and
    `epsilon` are those that the weights were trained with; `mean` and `std` apply to pixels scaled to
    [0, 1], one number or one per channel; `labels` is `imagenet` or a text file with one label per
    line. What is `None` takes what the files or their source say, and the decisions say which.

    Raises `CheckpointError` (naming file and tensor) for a file that is damaged, foreign or does not
    fit, `UnknownName` for a name that nobody published, `LabelsError` for labels that do not fit,
    `EnvironmentFault` where a download fails, and `InputError` for the rest.
    """
    paths, published = _files(source, progress)
    try:
        found = reading.read(paths)
        if published is not None:
            found = _as_published(found, published)
            licence = published.licence if licence is None else licence
            labels = "imagenet" if labels is None and found.spec.classes == IMAGENET_CLASSES else labels
        as_read, found = found, _as_two_classes(found)
        spec, spec_notes = _spec(found, padding, epsilon, resolution)
        preprocessing, preprocessing_notes = _preprocessing(found, mean, std)
        names, label_notes = _labels(found, labels)
        decisions = (
            *found.notes,
            *spec_notes,
            *preprocessing_notes,
            *label_notes,
            _licence_note(licence, found),
        )
        manifest = Manifest(
            spec=spec,
            labels=names,
            preprocessing=preprocessing,
            provenance={
                "tool": f"mobilenets {mobilenets.__version__}",
                "imported_from": [path.name for path in paths] if len(paths) > 1 else paths[0].name,
                "sha256": [files.sha256(path) for path in paths]
                if len(paths) > 1
                else files.sha256(paths[0]),
                **({"published": published.name, "url": published.url} if published else {}),
                "decisions": list(decisions),
            },
            licence=licence or found.licence or "unstated",
        )
        return Imported(Checkpoint(manifest, found.tensors), decisions, as_read, paths)
    except MobilenetsError as error:
        raise error.in_file(paths[0]) from error


def _as_two_classes(found: Found) -> Found:
    """A single logit z as the two logits 0 and z: their softmax is its sigmoid."""
    if found.spec.classes != 1:
        return found
    tensors = {
        name: np.concatenate([np.zeros_like(array), array]) if name.startswith("classifier.") else array
        for name, array in found.tensors.items()
    }
    note = (
        "Its one output became two classes, with the logits 0 and the file's: their softmax is its sigmoid."
    )
    spec = dataclasses.replace(found.spec, classes=2)
    return dataclasses.replace(found, spec=spec, tensors=tensors, labels=None, notes=(*found.notes, note))


def _files(
    source: str | Path | Sequence[str | Path], progress: Progress
) -> tuple[tuple[Path, ...], Published | None]:
    """The files to read, and whose published weights they are if the source was a name."""
    given = [source] if isinstance(source, str | Path) else list(source)
    if len(given) == 1 and not Path(given[0]).exists() and _is_a_name(str(given[0])):
        published = catalogue.find(str(given[0]))
        return (download.fetch(published, progress=progress),), published
    if not given:
        raise InputError("no file was given to import.")
    return tuple(reading.located(Path(path)) for path in given), None


def _is_a_name(text: str) -> bool:
    """Whether `text` is meant as the name of published weights and not as a file."""
    if catalogue.is_known(text):
        return True
    return any(text.startswith(prefix) for prefix in zoo.ZOO) and not Path(text).parent.name


def _as_published(found: Found, published: Published) -> Found:
    """`found` with what the publisher's own table says of it, once it is the network that was promised."""
    promised = zoo.build(published.network, classes=found.spec.classes, channels=found.spec.channels)
    if specs.tensor_shapes(promised) != specs.tensor_shapes(found.spec):
        raise CheckpointError(
            f"holds {found.spec.name}; {published.name} is a {published.network}.",
            remedy="The publisher may have replaced the file; to take it as it is, import it by its path.",
        )
    return dataclasses.replace(
        found,
        spec=dataclasses.replace(found.spec, resolution=published.resolution),
        preprocessing=published.preprocessing,
        preprocessing_is_known=True,
        notes=(
            f"Published as {published.published_as}: {published.trained_on}, "
            f"{published.resolution} px, its own preprocessing.",
            *found.notes,
        ),
    )


def _spec(
    found: Found, padding: Padding | None, epsilon: float | None, resolution: int | None
) -> tuple[Spec, list[str]]:
    theirs = found.spec
    spec = dataclasses.replace(
        theirs,
        padding=theirs.padding if padding is None else padding,
        norm_epsilon=theirs.norm_epsilon if epsilon is None else epsilon,
        resolution=theirs.resolution if resolution is None else resolution,
    )
    assumed = {
        "padding": (padding, f"padding '{spec.padding}'"),
        "eps": (epsilon, f"batch norm epsilon {spec.norm_epsilon:g}"),
        "resolution": (resolution, f"{spec.resolution} px"),
    }
    return spec, [
        f"{text[0].upper() + text[1:]}: "
        + ("as given." if given is not None else f"{found.source}'s for this network (--{flag} changes it).")
        for flag, (given, text) in assumed.items()
    ]


def _preprocessing(
    found: Found, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> tuple[Preprocessing, list[str]]:
    channels = found.spec.channels
    if channels not in MODE_OF_CHANNELS:
        for_channels(channels)
    theirs = found.preprocessing
    chosen = dataclasses.replace(
        theirs,
        mean=theirs.mean if mean is None else _per_channel("mean", mean, channels),
        std=theirs.std if std is None else _per_channel("std", std, channels),
    )
    text = f"Mean {_listed(chosen.mean)}, std {_listed(chosen.std)}: "
    if mean is not None and std is not None:
        text += "as given."
    elif found.preprocessing_is_known:
        text += "what was not given, the file says."
    elif theirs.mean == IMAGENET_MEAN:
        text += (
            f"what was not given is ImageNet's, as usual in {found.source}; "
            "TensorFlow's weights need 0.5 for both."
        )
    else:
        text += "what was not given is 0.5, which makes pixels lie between -1 and 1."
    fits = {"crop": f"shorter side / {chosen.crop_fraction:g}, centre square", "pad": "padded to a square"}
    fit = fits.get(chosen.fit, "stretched to a square")
    return chosen, [text, f"Pictures: {fit}, {chosen.resize}."]


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _per_channel(field: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) not in (1, channels):
        raise InputError(
            f"{field} has {len(values)} values; give one, or one for each of {channels} channels."
        )
    return values if len(values) == channels else values * channels


def _licence_note(licence: str | None, found: Found) -> str:
    if licence:
        return f"Licence of the weights: {printable(licence)}."
    if found.licence:
        return f"Licence of the weights: {printable(found.licence)}, as the file says (--licence changes it)."
    return "Licence of the weights: unstated (--licence says it)."


def _labels(found: Found, labels: str | Path | None) -> tuple[tuple[str, ...], list[str]]:
    classes = found.spec.classes
    if labels is None and found.labels is not None:
        return found.labels, [f"Labels: the file's own, {found.labels[0]} … {found.labels[-1]}."]
    if labels is None:
        digits = len(str(classes - 1))
        hint = " They may be ImageNet's: --labels imagenet." if classes == IMAGENET_CLASSES else ""
        names = tuple(f"class_{index:0{digits}d}" for index in range(classes))
        return names, [f"No labels given, so the classes are {names[0]} … {names[-1]}.{hint}"]
    if labels == "imagenet":
        from mobilenets import imagenet

        names, source = tuple(imagenet.labels()), "ImageNet's (ILSVRC 2012)"
    else:
        names, source = _label_file(Path(labels)), printable(str(labels))
    if len(names) != classes:
        one_more = classes == IMAGENET_CLASSES + 1
        background = " (one more than ImageNet: row 0 may be a background class)" if one_more else ""
        raise LabelsError(
            f"the network has {count(classes, 'class', 'classes')}{background}, "
            f"the labels are {len(names)} ({source}).",
            remedy="Give --labels a text file with one line per class, in the order of the logits.",
        )
    return names, [f"Labels: {source}."]


def _label_file(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(
            f"the labels cannot be read ({error}).",
            file=path,
            remedy="--labels takes 'imagenet' or a UTF-8 text file with one label per line.",
        ) from error
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    if "" in names:
        raise LabelsError(f"line {names.index('') + 1} is empty; every class needs a label.", file=path)
    for index, name in enumerate(names):
        if name in names[:index]:
            raise LabelsError(
                f"lines {names.index(name) + 1} and {index + 1} are both '{printable(name)}'.",
                file=path,
                remedy="Labels must differ: write, say, 'crane (bird)' and 'crane (machine)'.",
            )
    return names
