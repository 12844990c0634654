"""What the JSON files beside a file of weights from the Hugging Face hub say about it.

A repository of the hub is a folder: the weights, `config.json`, and for transformers
`preprocessor_config.json`. They know what tensors cannot say: padding, epsilon, resolution, labels,
preprocessing. What they say wins over a source's conventions, and every such choice is told.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mobilenets import zoo
from mobilenets.errors import CheckpointError, MobilenetsError
from mobilenets.files import read_json
from mobilenets.preprocessing import Preprocessing, Resize
from mobilenets.spec import Activation, Block, Conv, Spec
from mobilenets.text import count, printable
from mobilenets.weights.source import IMAGENET_CLASSES, Found

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What the hub's libraries call a model's weights; the first one present is taken."""

_ZOO_PREFIX = {"mobilenet_v1": "mobilenet_v1", "mobilenet_v2": "mobilenet_v2"}
"""transformers' `model_type` → our family."""
_RESAMPLE: tuple[Resize, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box")
"""Pillow's numbers of its kernels, which `preprocessor_config.json` writes."""
_HIDDEN_ACT: dict[str, Activation] = {"relu": "relu", "relu6": "relu6", "gelu": "gelu"}


def weights_in(folder: Path) -> Path:
    """The file of weights in a repository of the hub; `CheckpointError` where there is none."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"is a folder without {' or '.join(_WEIGHTS)}.",
        file=folder,
        remedy="Name the file of weights itself.",
    )


def beside(path: Path, found: Found) -> Found:
    """`found` as the JSON files in the folder of `path` correct it; unchanged where there are none.

    Raises `CheckpointError` naming the JSON file where it contradicts the tensors, or describes a
    network that no `Spec` states.
    """
    config_file = path.parent / CONFIG
    if found.source not in _READERS or not config_file.is_file():
        return found
    config = _object(config_file)
    try:
        return _READERS[found.source](found, config, path.parent)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"is not the description of a model ({error!r}).", file=config_file) from error
    except MobilenetsError as error:
        raise error.in_file(config_file) from error


def _object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise CheckpointError(f"holds a {type(value).__name__}, not a JSON object.", file=file)
    return value


# --- transformers -------------------------------------------------------------------------------


def _transformers(found: Found, config: Mapping[str, Any], folder: Path) -> Found:
    kind = config.get("model_type")
    if kind not in _ZOO_PREFIX or not found.spec.name.startswith(_ZOO_PREFIX[kind]):
        raise CheckpointError(
            f"says model_type {kind!r}; the tensors are those of {found.spec.name}.", remedy=_ELSEWHERE
        )
    _check_structure(found.spec, kind, config)
    spec, said = _spec_of(found.spec, config)
    labels, label_notes = _labels_of(found, config)
    notes = [f"{CONFIG} beside it says {', '.join(said)}: taken.", *label_notes] if said else label_notes
    result = dataclasses.replace(found, spec=spec, labels=labels, notes=(*found.notes, *notes))
    preprocessor = folder / PREPROCESSOR
    if not preprocessor.is_file():
        return result
    try:
        return _with_preprocessing(result, _object(preprocessor))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"is not a preprocessing ({error!r}).", file=preprocessor) from error
    except MobilenetsError as error:
        raise error.in_file(preprocessor) from error


_ELSEWHERE = "If it belongs to other weights, import the file from a folder without it."


def _check_structure(spec: Spec, kind: str, config: Mapping[str, Any]) -> None:
    """Refuse what the tensors contradict, and what leaves no trace in their shapes."""
    multiplier = config.get("depth_multiplier", 1.0)
    build = zoo.ZOO[_ZOO_PREFIX[kind]].build
    if not any(build(multiplier, rule=rule).blocks == spec.blocks for rule in get_args(zoo.Rule)):
        raise CheckpointError(
            f"says depth_multiplier {multiplier!r}; the tensors are those of {spec.name}.", remedy=_ELSEWHERE
        )
    stride = config.get("output_stride", 32)
    if stride != 32:
        raise CheckpointError(
            f"says output_stride {stride!r}: dilated convolutions, which are not supported."
        )
    activation = config.get("hidden_act", "relu6")
    if activation not in _HIDDEN_ACT:
        accepted = ", ".join(_HIDDEN_ACT)
        raise CheckpointError(f"says hidden_act {activation!r}; accepted: {accepted}.")


def _spec_of(spec: Spec, config: Mapping[str, Any]) -> tuple[Spec, list[str]]:
    """The network as it computes there, and what the file says of that."""
    said: list[str] = []
    changes: dict[str, Any] = {}
    for key, field, convert in (
        ("tf_padding", "padding", lambda v: "same" if v else "symmetric"),
        ("layer_norm_eps", "norm_epsilon", float),
        ("image_size", "resolution", _side),
        ("classifier_dropout_prob", "dropout", _dropout),
    ):
        if key in config:
            changes[field] = convert(config[key])
            said.append(f"{key} {config[key]}")
    activation = _HIDDEN_ACT[config.get("hidden_act", "relu6")]
    if activation != "relu6":
        spec = with_activation(spec, "relu6", activation)
        said.append(f"hidden_act {activation}")
    return dataclasses.replace(spec, **changes), said


def with_activation(spec: Spec, old: Activation, new: Activation) -> Spec:
    """`spec` with `new` wherever a convolution of its blocks has the activation `old`."""

    def changed(block: Block) -> Block:
        ops = tuple(
            dataclasses.replace(op, activation=new) if isinstance(op, Conv) and op.activation == old else op
            for op in block.ops
        )
        return dataclasses.replace(block, ops=ops)

    return dataclasses.replace(spec, blocks=tuple(changed(block) for block in spec.blocks))


def _side(size: Any) -> int:
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise CheckpointError(f"says image_size {size!r}; only square pictures are supported.")
    return int(sides.pop())


def _dropout(share: float) -> float:
    """Above a half it is TF-slim's share to keep, which the library's defaults give as one to drop."""
    return round(1 - share, 6) if share > 0.5 else float(share)


def _labels_of(found: Found, config: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, list[str]]:
    """The labels under `id2label`, if every class has one that somebody chose."""
    table, classes = config.get("id2label"), found.spec.classes
    if not isinstance(table, Mapping):
        return found.labels, []
    names = [table.get(str(index)) for index in range(len(table))]
    if len(names) == classes + 1 == IMAGENET_CLASSES + 1:  # the background was left out with its row
        names = names[1:]
    if len(names) != classes or not all(isinstance(name, str) and name for name in names):
        there = count(len(table), "label")
        needed = count(classes, "class", "classes")
        return found.labels, [f"{CONFIG} beside it has {there} for {needed}: left aside."]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return found.labels, []
    return _all_different([str(name) for name in names])


def _all_different(names: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Labels must differ: the hub's ImageNet labels have two cranes."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    different = tuple(f"{name} ({i})" if name in twice else name for i, name in enumerate(names))
    if not twice:
        return different, []
    named = ", ".join(printable(name) for name in twice)
    return different, [f"Labels that {CONFIG} gives to several classes got their index in brackets: {named}."]


def _with_preprocessing(found: Found, config: Mapping[str, Any]) -> Found:
    preprocessing, side = _transformers_preprocessing(found, config)
    notes = [f"{PREPROCESSOR} beside it says how pictures are prepared: taken."]
    spec = found.spec
    if side is not None and side != spec.resolution:
        spec = dataclasses.replace(spec, resolution=side)
        notes.append(f"It prepares pictures of {side} px, so the network takes those.")
    return dataclasses.replace(
        found,
        spec=spec,
        preprocessing=preprocessing,
        preprocessing_is_known=True,
        notes=(*found.notes, *notes),
    )


def _transformers_preprocessing(found: Found, config: Mapping[str, Any]) -> tuple[Preprocessing, int | None]:
    """The preprocessing, and the side of the pictures that it makes, where it says one."""
    usual = found.preprocessing
    size, crop = _sizes(config.get("size")), _sizes(config.get("crop_size"))
    resizes, crops = config.get("do_resize", True), config.get("do_center_crop", True)
    normalises, rescales = config.get("do_normalize", True), config.get("do_rescale", True)
    number = config.get("resample", 2)
    if not isinstance(number, int) or not 0 <= number < len(_RESAMPLE):
        raise CheckpointError(f"says resample {number!r}; accepted: 0 to {len(_RESAMPLE) - 1}.")
    channels = found.spec.channels
    preprocessing = dataclasses.replace(
        usual,
        resize=_RESAMPLE[number],
        scale=float(config.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        mean=tuple(map(float, config.get("image_mean", usual.mean))) if normalises else (0.0,) * channels,
        std=tuple(map(float, config.get("image_std", usual.std))) if normalises else (1.0,) * channels,
    )
    if crops and crop is not None:
        shorter = min(size) if resizes and size is not None else min(crop)
        if crop[0] != crop[1] or crop[0] > shorter:
            raise CheckpointError(f"crops {crop[0]}×{crop[1]} from a shorter side of {shorter} px.")
        return dataclasses.replace(preprocessing, fit="crop", crop_fraction=crop[0] / shorter), crop[0]
    if resizes and size is not None and len(size) == 2:
        if size[0] != size[1]:
            raise CheckpointError(f"resizes to {size[0]}×{size[1]}; only square pictures are supported.")
        return dataclasses.replace(preprocessing, fit="stretch", crop_fraction=1.0), size[0]
    return preprocessing, None


def _sizes(value: Any) -> tuple[int, ...] | None:
    """(height, width), or (shorter side,); `None` where nothing is said."""
    match value:
        case None:
            return None
        case {"shortest_edge": int(side)}:
            return (side,)
        case {"height": int(height), "width": int(width)}:
            return height, width
        case int(side):
            return side, side
        case _:
            raise CheckpointError(f"has a size that nobody here knows: {value!r}.")


# --- timm ---------------------------------------------------------------------------------------


def _timm(found: Found, config: Mapping[str, Any], folder: Path) -> Found:
    """`pretrained_cfg` says the preprocessing, a `tf_` name TensorFlow's padding and epsilon."""
    theirs = config.get("pretrained_cfg")
    if not isinstance(theirs, Mapping):
        return found
    spec, said = found.spec, []
    architecture = str(config.get("architecture", ""))
    if not _is_ours(architecture):
        raise CheckpointError(
            f"says architecture {printable(architecture)!r}; the tensors are those of {spec.name}.",
            remedy=_ELSEWHERE,
        )
    if config.get("num_classes", spec.classes) != spec.classes:
        raise CheckpointError(
            f"says num_classes {config['num_classes']!r}; the tensors have {spec.classes}.", remedy=_ELSEWHERE
        )
    if architecture.startswith("tf_"):
        spec = dataclasses.replace(spec, padding="same", norm_epsilon=1e-3)
        said.append(f"architecture {printable(architecture)}")
    if "input_size" in theirs:
        spec = dataclasses.replace(spec, resolution=_side(theirs["input_size"][1:]))
        said.append(f"input_size {theirs['input_size']}")
    preprocessing, more = _timm_preprocessing(found.preprocessing, theirs)
    names = config.get("label_names")
    labels = found.labels
    label_notes: list[str] = []
    if isinstance(names, list) and len(names) == spec.classes and all(isinstance(n, str) for n in names):
        labels, label_notes = _all_different(names)
    notes = [f"{CONFIG} beside it says {', '.join([*said, *more])}: taken."] if said or more else []
    return dataclasses.replace(
        found,
        spec=spec,
        preprocessing=preprocessing,
        preprocessing_is_known={"mean", "std"} <= theirs.keys(),
        labels=labels,
        notes=(*found.notes, *notes, *label_notes),
    )


def _is_ours(architecture: str) -> bool:
    """Whether timm's name may be one of this family; a file without one says nothing."""
    return architecture.removeprefix("tf_").startswith("mobilenet") or not architecture


def _timm_preprocessing(usual: Preprocessing, theirs: Mapping[str, Any]) -> tuple[Preprocessing, list[str]]:
    """Each of the four keys that is there, checked by `Preprocessing` itself."""
    changes: dict[str, Any] = {}
    for key, field in (
        ("mean", "mean"),
        ("std", "std"),
        ("interpolation", "resize"),
        ("crop_pct", "crop_fraction"),
    ):
        if theirs.get(key) is not None:
            value = theirs[key]
            changes[field] = tuple(map(float, value)) if isinstance(value, list) else value
    mode = theirs.get("crop_mode", "center")
    if mode == "squash":
        changes["fit"] = "stretch"
    elif mode not in ("center", None):
        raise CheckpointError(f"says crop_mode {mode!r}; accepted: center, squash.")
    said = [f"{key} {theirs[key]}" for key in ("mean", "std", "interpolation", "crop_pct") if theirs.get(key)]
    return dataclasses.replace(usual, **changes), said


_READERS = {"transformers": _transformers, "timm": _timm}
