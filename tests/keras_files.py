"""Keras' files, written here with h5py alone: as published ones look, and as early versions wrote."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mobilenets.spec import Spec, tensor_shapes
from mobilenets.weights.keras import KERAS, layer_kinds
from mobilenets.weights.source import from_ours

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'mobilenets[keras]'")

VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def random_tensors(spec: Spec, seed: int = 0) -> dict[str, np.ndarray]:
    """Under our names; variances are positive."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.random(shape) + 0.5 if name.endswith("running_var") else rng.standard_normal(shape)
        ).astype(np.float32)
        for name, shape in tensor_shapes(spec).items()
    }


def layers_of(spec: Spec, tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Keras' layer name → its variables, in Keras' order."""
    layers: dict[str, dict[str, np.ndarray]] = {name: {} for name in layer_kinds(spec)}
    for ours, place in KERAS.places(spec).items():
        layer, _, variable = place.name.rpartition("/")
        layers[layer][variable] = from_ours(place.layout, tensors[ours])
    return {name: {v: its[v] for v in VARIABLES if v in its} for name, its in layers.items()}


def slashed(name: str) -> str:
    """tf.keras' V3: `expanded_conv_1_expand_bn` → `expanded_conv_1/expand/BatchNorm`."""
    name = name.replace("squeeze_excite_conv", "squeeze_excite/Conv")
    norm = name.endswith("_bn")
    name = name.removesuffix("_bn")
    for op in ("expand", "depthwise", "project", "squeeze_excite/Conv_1", "squeeze_excite/Conv"):
        if name.endswith(f"_{op}"):
            name = f"{name.removesuffix(f'_{op}')}/{op}"
            break
    else:
        name = name[0].upper() + name[1:]
    return f"{name}/BatchNorm" if norm else name


def write_keras_2(
    path: Path, layers, kinds, *, rename=lambda name: name, chunks: int = 1, inside: str = ""
) -> Path:
    """The published layout: a group per layer, `layer_names` and `weight_names`, names ending in `:0`.

    With `inside`, the layers lie in one group of that name, as a base does in a Sequential.
    """
    with h5py.File(path, "w") as file:
        groups = {}
        for name, variables in layers.items():
            spelled = {
                ("depthwise_kernel" if kinds[name] == "depthwise_conv2d" and v == "kernel" else v): array
                for v, array in variables.items()
            }
            groups.setdefault(inside or rename(name), []).extend(
                (f"{rename(name)}/{variable}:0", array) for variable, array in spelled.items()
            )
        names = ["input_1", *groups]
        for index, part in enumerate(np.array_split(np.array(names, dtype="S"), chunks)):
            file.attrs[f"layer_names{index}" if chunks > 1 else "layer_names"] = part
        file.create_group("input_1").attrs["weight_names"] = np.array([], dtype="S")
        for group, weights in groups.items():
            held = file.create_group(group) if group not in file else file[group]
            held.attrs["weight_names"] = np.array([name for name, _ in weights], dtype="S")
            for name, array in weights:
                held[name] = array
    return path


def write_keras_3(path: Path, layers, kinds, *, root: str = "layers", names: bool = False) -> Path:
    """`layers/conv2d_3/vars/0`, by class and count; the names are there only if `names`."""
    counted: Counter[str] = Counter()
    with h5py.File(path, "w") as file:
        for name, variables in layers.items():
            index = counted[kinds[name]]
            counted[kinds[name]] += 1
            group = file.create_group(f"{root}/{kinds[name]}" + (f"_{index}" if index else "") + "/vars")
            if names:
                group.attrs["name"] = name
            for number, array in enumerate(variables.values()):
                group[str(number)] = array
    return path
