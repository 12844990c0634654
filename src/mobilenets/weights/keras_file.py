"""Reading the layers of a Keras file: `.weights.h5`, `.keras`, and the `.h5` of Keras 2.

The containers, all of HDF5:

* Keras 3's weights: `layers/conv2d_3/vars/0`, by class and count; since 3.7 the layer's name is an
  attribute of `vars`. tf.keras 2.12 to 2.15 write the same, 2.12 under another root.
* A `.keras` archive: a zip of such weights and `config.json`, which says the names.
* Keras 2's weights: a group per layer, with the attributes `layer_names` and `weight_names`; a whole
  model has them under `model_weights`, and its configuration in an attribute.

A file is a stranger's: links and external storage are not followed, no object is built, sizes are
checked before anything is read. Needs h5py, imported when used.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import CheckpointError, MissingExtra
from mobilenets.text import printable
from mobilenets.weights import keras_config

HDF5 = b"\x89HDF\r\n\x1a\n"
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_ROOTS = ("layers", "_layer_checkpoint_dependencies")
MAX_VALUES = 1 << 27
"""Numbers in a file; the largest network here has 37 million. More are refused before they are read."""
_MAX_CONFIG_BYTES = 1 << 26
_MAX_DEPTH = 24
_MAX_GROUPS = 20_000
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""What Keras 3 numbers 0, 1 …, in its order."""
_STATE = re.compile(r"seed_generator.*|StateVar.*|state_?var.*|random_generator.*", re.IGNORECASE)
"""Variables that hold the state of a random generator."""


@dataclass(frozen=True)
class StoredLayer:
    """A layer with weights: `kernel`, `bias`, `gamma`, `beta`, `moving_mean`, `moving_variance`."""

    name: str
    """Keras' name, or class and count (`conv2d_3`) where the file has no names."""
    kind: str
    """`conv2d`, `depthwise_conv2d`, `dense`, `batch_normalization`, or whatever else it is."""
    tensors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class KerasFile:
    """The layers of a file. Those of one kind are in the model's order."""

    layers: tuple[StoredLayer, ...]
    form: str
    """What the file is, in words."""
    config: Mapping[str, Any] | None
    """The model's configuration, plain JSON, where the file has it."""
    notes: tuple[str, ...] = ()


def recognised(path: Path) -> bool:
    """Whether `path` is an HDF5 file or a `.keras` archive, by its content alone."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(HDF5)) == HDF5:
                return True
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return _WEIGHTS in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def read(path: Path) -> KerasFile:
    """Read a Keras file, whatever its name's ending.

    Raises `CheckpointError` for a file that is missing, truncated or no Keras file, that links to other
    files, or has a tensor that is not of floating-point numbers, too large, or has NaN or infinity
    in it; `MissingExtra` without h5py.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(HDF5))
            stream.seek(0)
            if magic == HDF5:
                return _read_hdf5(stream, None)
            if magic.startswith(b"PK\x03\x04"):
                return _read_archive(stream)
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file.", file=path) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error}).", file=path) from error
    except CheckpointError as error:
        raise error.in_file(path) from error
    raise CheckpointError(
        "is not a Keras file: it is neither HDF5 nor a .keras archive." if magic else "is empty.",
        file=path,
        remedy="Accepted: what model.save and model.save_weights write (.keras, .weights.h5, .h5).",
    )


def _damaged(error: Exception) -> CheckpointError:
    first = printable((str(error) or type(error).__name__).splitlines()[0][:200])
    return CheckpointError(f"cannot be read: it is truncated or damaged ({first}).")


def _read_archive(stream: BinaryIO) -> KerasFile:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if _WEIGHTS not in members or _CONFIG not in members:
                raise CheckpointError(
                    f"is a zip archive without {_CONFIG} and {_WEIGHTS}, so no Keras model."
                )
            contents = {}
            for name, limit in ((_CONFIG, _MAX_CONFIG_BYTES), (_WEIGHTS, 8 * MAX_VALUES)):
                size = members[name].file_size
                if size > limit:
                    raise CheckpointError(
                        f"'{name}' in it claims {size:,} bytes; at most {limit:,} are read."
                    )
                contents[name] = archive.read(name)
    except CheckpointError:
        raise
    except Exception as error:  # the bytes can be anything: whatever the reader trips over means the same
        raise _damaged(error) from error
    return _read_hdf5(io.BytesIO(contents[_WEIGHTS]), keras_config.parse(contents[_CONFIG]))


def _read_hdf5(stream: BinaryIO, config: Mapping[str, Any] | None) -> KerasFile:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("Reading a Keras file", "keras", "h5py") from error
    try:
        with h5py.File(stream, "r") as file:
            if config is None and "model_config" in file.attrs:
                config = keras_config.parse(_text(file.attrs["model_config"]))
            root = _group(file, "model_weights") if "model_weights" in file else file
            reader = _Reader(h5py)
            if any(name.startswith("layer_names") for name in root.attrs):
                whole = root is not file
                form = "a whole model in Keras 2's HDF5" if whole else "weights in Keras 2's HDF5"
                return KerasFile(tuple(reader.by_layer(root)), form, config, reader.notes())
            if any(name.replace("\\", "/").split("/")[0] in _ROOTS for name in file):
                names = {} if config is None else keras_config.names_by_path(config)
                form = "weights in Keras 3's HDF5" if config is None else "a .keras archive"
                return KerasFile(tuple(reader.by_class(file, names)), form, config, reader.notes())
            raise CheckpointError(
                "is HDF5, but no Keras file: it has neither layers nor the attribute layer_names."
            )
    except CheckpointError:
        raise
    except Exception as error:  # as above: h5py raises nearly every kind of error for damaged bytes
        raise _damaged(error) from error


def _text(value: object) -> str | bytes:
    if not isinstance(value, str | bytes) or len(value) > _MAX_CONFIG_BYTES:
        raise CheckpointError("its attribute model_config is not text, or too long.")
    return value


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names in an attribute, which Keras cuts into `name0`, `name1` … where it is long."""
    keys = [attribute] if attribute in group.attrs else []
    while not keys or keys[-1] != attribute:
        key = f"{attribute}{len(keys)}"
        if key not in group.attrs:
            break
        keys.append(key)
    values = [value for key in keys for value in np.asarray(group.attrs[key]).ravel().tolist()]
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]


def _group(parent: Any, path: str) -> Any:
    """The object at `path` below `parent`, reached by hard links alone."""
    here = parent
    for part in [part for part in path.split("/") if part]:
        link = here.get(part, getlink=True) if hasattr(here, "keys") and part in here else None
        if link is None:
            raise CheckpointError(f"tensor '{printable(path)}' is listed, but it is not in the file.")
        if type(link).__name__ != "HardLink":
            raise CheckpointError(
                f"'{printable(path)}' is a link ({type(link).__name__}) to somewhere else; "
                "links are not followed."
            )
        here = here[part]
    return here


class _Reader:
    """Reads tensors, and keeps count of how many numbers there were and what was converted."""

    def __init__(self, h5py: Any) -> None:
        self._h5py = h5py
        self._values = 0
        self._groups = 0
        self._converted: set[str] = set()

    def notes(self) -> tuple[str, ...]:
        if not self._converted:
            return ()
        return (f"Tensors stored as {', '.join(sorted(self._converted))} were converted to float32.",)

    def by_layer(self, root: Any) -> Iterator[StoredLayer]:
        """Keras 2's form: the layers with weights, in the model's order."""
        for layer in _names(root, "layer_names"):
            group = _group(root, layer)
            found: dict[str, dict[str, NDArray[np.float32]]] = {}
            for stored in _names(group, "weight_names"):
                place, _, variable = stored.split(":")[0].rpartition("/")
                if not _STATE.fullmatch(variable) and "seed_generator" not in place:
                    label = f"{place or layer}/{variable}"
                    found.setdefault(place, {})[variable] = self._tensor(_group(group, stored), label)
            shared = _shared_parent(found)
            for place, tensors in found.items():
                # A layer's own group has its name; that of a model inside has many, each with its own.
                name = layer if len(found) == 1 else place.removeprefix(shared)
                kind = _kind_of(tensors)
                as_keras_3 = {"kernel" if k == "depthwise_kernel" else k: v for k, v in tensors.items()}
                yield StoredLayer(name, kind, as_keras_3)

    def by_class(self, file: Any, names: Mapping[str, str]) -> Iterator[StoredLayer]:
        """Keras 3's form: the layers with weights, those of a class in the model's order."""
        found = [
            (path, group)
            for path, group in self._walk(file, "", 0)
            if path.split("/")[0] in _ROOTS and "seed_generator" not in path
        ]
        for path, group in sorted(found, key=lambda item: _in_model_order(item[0])):
            # `vars` of each layer; its name is an attribute, or in the configuration, or nowhere.
            short = path.rpartition("/")[2]
            said = group.attrs.get("name", names.get(path.replace(_ROOTS[1], _ROOTS[0]), short))
            name = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            kind = re.sub(r"_\d+$", "", short)
            variables = _VARIABLES.get(kind, ())
            tensors = {}
            for index in sorted(group, key=lambda key: (len(key), key)):
                number = int(index) if index.isdecimal() else len(variables)
                variable = variables[number] if number < len(variables) else index
                tensors[variable] = self._tensor(_group(group, index), f"{name}/{variable}")
            yield StoredLayer(name, kind, tensors)

    def _walk(self, group: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        """Every group `vars` with tensors in it, by the path of its layer."""
        self._groups += 1
        if self._groups > _MAX_GROUPS:
            raise CheckpointError(f"has more than {_MAX_GROUPS:,} groups: it links in circles.")
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"'{printable(path)}' lies more than {_MAX_DEPTH} groups deep.")
        for name in group:
            if depth == 0 and name.replace("\\", "/").split("/")[0] not in _ROOTS:
                continue  # the optimizer's state
            child = _group(group, name)
            if not isinstance(child, self._h5py.Group):
                continue
            if name == "vars" and len(child):
                yield path, child
            elif name != "vars":
                spelled = name.replace("\\", "/")  # as Keras 2.12 wrote it on Windows
                yield from self._walk(child, f"{path}/{spelled}" if path else spelled, depth + 1)

    def _tensor(self, stored: Any, name: str) -> NDArray[np.float32]:
        label = f"tensor '{printable(name)}'"
        if not isinstance(stored, self._h5py.Dataset):
            raise CheckpointError(f"{label} is not a dataset.")
        if stored.external or stored.is_virtual:
            raise CheckpointError(f"{label} keeps its numbers in another file; those are not read.")
        half = (
            stored.dtype.kind == "V"
            and stored.dtype.itemsize == 2
            and stored.attrs.get("dtype") == "bfloat16"
        )
        if not half and (stored.dtype.kind != "f" or stored.dtype.itemsize > 8):
            raise CheckpointError(
                f"{label} is {printable(str(stored.dtype))[:60]}; weights must be floating-point numbers."
            )
        if stored.shape is None:
            raise CheckpointError(f"{label} is empty.")
        self._values += math.prod(stored.shape)
        if self._values > MAX_VALUES or len(stored.shape) > 4:
            raise CheckpointError(
                f"{label} has shape {stored.shape}; at most four dimensions and {MAX_VALUES:,} numbers "
                "in a file are read."
            )
        raw = stored[()]
        if half:
            raw = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if half or raw.dtype != np.float32:
            self._converted.add("bfloat16" if half else str(raw.dtype))
        with np.errstate(over="ignore"):
            values = np.asarray(raw, dtype=np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{label} has NaN or infinity in it.")
        if name.endswith("moving_variance") and (values < 0).any():
            raise CheckpointError(f"{label} has a negative variance in it.")
        return values


def _in_model_order(path: str) -> tuple[tuple[str, int], ...]:
    """Sorts `layers/conv2d`, `layers/conv2d_2`, `layers/conv2d_10` as they are counted."""
    parts = (re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", part) for part in path.split("/"))
    return tuple((match[1], int(match[2] or 0)) for match in parts if match is not None)


def _shared_parent(places: Iterable[str]) -> str:
    """What the names of all layers in a group begin with, up to a `/`: a model that they lie in."""
    first, *rest = list(places) or [""]
    shared = ""
    for part in first.split("/")[:-1]:
        if not all(place.startswith(f"{shared}{part}/") for place in rest):
            break
        shared += f"{part}/"
    return shared if rest else ""


def _kind_of(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """What kind of layer has these tensors, where no class is stored."""
    if "gamma" in tensors or "moving_mean" in tensors:
        return "batch_normalization"
    kernel = tensors.get("depthwise_kernel", tensors.get("kernel"))
    if kernel is None or kernel.ndim not in (2, 4):
        return "layer"
    if kernel.ndim == 2:
        return "dense"
    depthwise = "depthwise_kernel" in tensors or (kernel.shape[0] > 1 and kernel.shape[3] == 1)
    return "depthwise_conv2d" if depthwise else "conv2d"
