"""The program that runs the other implementation: `python -m mobilenets.proof.theirs FOLDER`.

It reads `request.json` and `pixels.npy` in that folder, builds the network with the other library,
lets that library load the file, and leaves `values.npy` and `answer.json`: name, version, kind of
output, or why it could not.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenets import zoo
from mobilenets.errors import UnknownName
from mobilenets.exporting.keras_weights import BUILDERS
from mobilenets.exporting.state_dict import TIMM_NAMES
from mobilenets.preprocessing import Preprocessing, normalise
from mobilenets.weights import pytorch_file, tflite
from mobilenets.weights.keras import EPSILON
from mobilenets.weights.source import Found
from mobilenets.weights.tflite.trace import trace

Request = Mapping[str, Any]


class Reply(NamedTuple):
    """What a library made of the pictures."""

    package: str
    """The distribution whose version is told."""
    kind: str
    values: NDArray[Any]


class NotComparable(Exception):
    """The other library cannot run this file; the text says why, as the end of a sentence."""


def request(found: Found, files: Sequence[Path]) -> dict[str, Any]:
    """What the program needs to know of `found`, as plain JSON values."""
    spec = found.spec
    try:
        prefix, width = zoo.parse(spec.name)
    except UnknownName:
        prefix, width = spec.name, 0.0
    return {
        "source": found.source,
        "files": [str(file.resolve()) for file in files],
        "name": spec.name,
        "prefix": prefix,
        "width": width,
        "classes": spec.classes,
        "channels": spec.channels,
        "resolution": spec.resolution,
        "padding": spec.padding,
        "epsilon": spec.norm_epsilon,
        "preprocessing": found.preprocessing.to_json(),
    }


def _seen(asked: Request, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels as the network sees them, N×H×W×C."""
    return normalise(pixels, Preprocessing.from_json(asked["preprocessing"]))


def _run_torch(model: Any, asked: Request, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    import torch

    x = torch.from_numpy(np.ascontiguousarray(_seen(asked, pixels).transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        result = model.eval()(x)
    values: NDArray[Any] = getattr(result, "logits", result).numpy()
    return values


def _load_torch(model: Any, asked: Request) -> None:
    """The file's tensors into `model`; all of them but batch norm's step counters must be there."""
    import torch

    state = pytorch_file.read(Path(asked["files"][0])).tensors
    arrays = {name: torch.from_numpy(array) for name, array in state.items()}
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    if unexpected or any(not name.endswith(pytorch_file.IGNORED) for name in missing):
        raise NotComparable("its model has other tensors than this file.")


def _timm(asked: Request, pixels: NDArray[np.uint8]) -> Reply:
    import timm

    if asked["name"] not in TIMM_NAMES:
        raise NotComparable(f"it builds no {asked['name']} by name.")
    model = timm.create_model(
        TIMM_NAMES[asked["name"]],
        num_classes=asked["classes"],
        in_chans=asked["channels"],
        pad_type="same" if asked["padding"] == "same" else "",
        bn_eps=asked["epsilon"],
    )
    _load_torch(model, asked)
    return Reply("timm", "logits", _run_torch(model, asked, pixels))


def _torchvision(asked: Request, pixels: NDArray[np.uint8]) -> Reply:
    from torchvision import models

    build: Callable[..., Any] = getattr(models, asked["prefix"])
    model = build(num_classes=asked["classes"], width_mult=asked["width"])
    _load_torch(model, asked)
    return Reply("torchvision", "logits", _run_torch(model, asked, pixels))


def _transformers(asked: Request, pixels: NDArray[np.uint8]) -> Reply:
    import transformers

    file = Path(asked["files"][0])
    version = "V1" if asked["prefix"] == "mobilenet_v1" else "V2"
    config_class = getattr(transformers, f"MobileNet{version}Config")
    beside = file.parent / "config.json"
    if beside.is_file():
        config = config_class.from_json_file(str(beside))
    else:
        config = config_class(
            depth_multiplier=asked["width"],
            tf_padding=asked["padding"] == "same",
            layer_norm_eps=asked["epsilon"],
            num_channels=asked["channels"],
            image_size=asked["resolution"],
        )
    config.num_labels = len(pytorch_file.read(file).tensors["classifier.bias"])
    model = getattr(transformers, f"MobileNet{version}ForImageClassification")(config)
    _load_torch(model, asked)
    return Reply("transformers", "logits", _run_torch(model, asked, pixels))


def _keras(asked: Request, pixels: NDArray[np.uint8]) -> Reply:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    if asked["prefix"] not in BUILDERS:
        raise NotComparable(f"it builds no {asked['name']} by name.")
    if asked["epsilon"] != EPSILON:
        raise NotComparable(f"its own model has another epsilon, {EPSILON:g}, in its norms.")
    builder = BUILDERS[asked["prefix"]]
    inside = {"include_preprocessing": False} if builder.startswith("MobileNetV3") else {}
    minimal = {"minimalistic": True} if asked["prefix"].endswith("minimalistic") else {}
    side = asked["resolution"]
    model = getattr(keras.applications, builder)(
        input_shape=(side, side, asked["channels"]),
        alpha=asked["width"],
        classes=asked["classes"],
        weights=None,
        classifier_activation=None,
        **inside,
        **minimal,
    )
    # A model stored whole can name code to run, even where Keras means to be careful: its weights suffice.
    try:
        model.load_weights(asked["files"][0])
    except (ValueError, KeyError, OSError) as error:
        raise NotComparable("its own model does not load this file.") from error
    values = keras.ops.convert_to_numpy(model(_seen(asked, pixels), training=False))
    return Reply("keras", "logits", values)


def _kind(values: NDArray[Any]) -> str:
    sums = values.sum(axis=1)
    return "probabilities" if values.min() >= 0 and np.allclose(sums, 1, atol=1e-3) else "logits"


def _tflite(asked: Request, pixels: NDArray[np.uint8]) -> Reply:
    from ai_edge_litert.interpreter import Interpreter

    values, quantised = [], False
    # The file may normalise by operators of its own, which come before what the network sees.
    traced = trace([tflite.read(file) for file in asked["files"]])
    if others := [name for name in traced.left_out if not name.startswith("SOFTMAX")]:
        raise NotComparable(f"its file ends with {others[0]}, which was left out here.")
    if not traced.pooled:
        raise NotComparable("its file ends before the global average pooling, which was added here.")
    taken_in = ((_seen(asked, pixels) - traced.offset) / traced.factor).astype(np.float32)
    for picture, seen in zip(pixels, taken_in, strict=True):
        tensor: NDArray[Any] = seen[None]
        for index, file in enumerate(asked["files"]):
            interpreter = Interpreter(model_path=file)
            interpreter.allocate_tensors()
            taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
            scale, zero = taken["quantization"]
            if scale:
                quantised = True
                limits = np.iinfo(taken["dtype"])
                rounded = np.round(tensor / scale + zero)
                tensor = np.clip(rounded, limits.min, limits.max).astype(taken["dtype"])
                if index == 0 and taken["dtype"] == np.uint8:
                    tensor = picture[None]
            if index == 0 and taken["shape"][-1] != seen.shape[-1]:
                tensor = tensor.transpose(0, 3, 1, 2)
            interpreter.set_tensor(taken["index"], tensor.reshape(taken["shape"]))
            interpreter.invoke()
            tensor = interpreter.get_tensor(given["index"])
            scale, zero = given["quantization"]
            if scale:
                tensor = (tensor.astype(np.float32) - zero) * np.float32(scale)
        values.append(tensor.reshape(-1))
    stacked = np.stack(values)
    return Reply("ai-edge-litert", "quantised" if quantised else _kind(stacked), stacked)


IMPLEMENTATIONS: dict[str, Callable[[Request, NDArray[np.uint8]], Reply]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "Keras": _keras,
    "TFLite": _tflite,
}
"""By `Found.source`: who runs the file, given the request and N×H×W×C pixels."""


def main(folder: Path) -> None:
    """Answer the request in `folder`."""
    asked = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    pixels = np.load(folder / "pixels.npy", allow_pickle=False)
    try:
        reply = IMPLEMENTATIONS[asked["source"]](asked, pixels)
        np.save(folder / "values.npy", np.asarray(reply.values, dtype=np.float32))
        name = f"{reply.package} {metadata.version(reply.package)}"
        answer = {"implementation": name, "kind": reply.kind}
    except ModuleNotFoundError as error:
        answer = {"why": f"{error.name} is not installed."}
    except NotComparable as error:
        answer = {"why": str(error)}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
