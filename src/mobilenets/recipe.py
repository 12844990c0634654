"""How a network is trained: frozen dataclasses, presets, and the JSON that is stored with every run.

A value from outside (`--set rate=1e-3`, a JSON file) is checked against the field's type and range,
and a misspelt field is an error with the nearest name. No torch is needed to read or write one.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mobilenets.errors import RecipeError, UnknownName
from mobilenets.preprocessing import Fit

Optimizer = Literal["adamw", "rmsprop"]
Precision = Literal["auto", "fp32", "bf16"]
Layout = Literal["auto", "contiguous", "channels_last"]
Balance = Literal["auto", "none", "weighted"]


def _range(value: float, low: float, high: float, name: str) -> None:
    if not low <= value <= high:
        raise RecipeError(f"recipe: {name} is {value!r}; it must lie between {low:g} and {high:g}.")


@dataclass(frozen=True, slots=True)
class Augment:
    """What makes every training view of a picture different. Evaluation never uses any of it."""

    crop_area: tuple[float, float] = (0.35, 1.0)
    """Random resized crop (Szegedy et al. 2015): range of the share of the area that is kept."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Range of that crop's width / height before it is made square."""
    flip: bool = True
    """Mirror left and right at random: wrong for digits, letters and anything handed."""
    rotate_degrees: float = 0.0
    """Turn by up to this many degrees either way."""
    shift: float = 0.0
    """Move by up to this share of the side, both ways."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    """Colour jitter: each factor is drawn from 1 ± value."""
    randaugment_ops: int = 0
    """RandAugment (arXiv 1909.13719): how many random operations per picture; 0 is none."""
    randaugment_magnitude: int = 9
    """Their strength, 0–30."""
    mixup_alpha: float = 0.0
    """Mixup (arXiv 1710.09412): Beta(α, α) shares of two pictures; 0 is none."""
    cutmix_alpha: float = 0.0
    """CutMix (arXiv 1905.04899): a box of one picture in another; 0 is none."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise RecipeError(
                f"recipe: augment.crop_area is {self.crop_area}; it must be 0 < low ≤ high ≤ 1."
            )
        if not 0.01 <= self.crop_ratio[0] <= self.crop_ratio[1] <= 100:
            raise RecipeError(
                f"recipe: augment.crop_ratio is {self.crop_ratio}; it must be 0.01 ≤ low ≤ high ≤ 100."
            )
        for name, high in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("shift", 1)):
            _range(getattr(self, name), 0, high, f"augment.{name}")
        _range(self.rotate_degrees, 0, 180, "augment.rotate_degrees")
        _range(self.randaugment_ops, 0, 14, "augment.randaugment_ops")
        _range(self.randaugment_magnitude, 0, 30, "augment.randaugment_magnitude")
        _range(self.mixup_alpha, 0, 10, "augment.mixup_alpha")
        _range(self.cutmix_alpha, 0, 10, "augment.cutmix_alpha")


@dataclass(frozen=True, slots=True)
class Freeze:
    """Transfer learning in two phases: the new classifier on a frozen body, then more of the network.

    In the first phase the body runs in evaluation mode, so its features are computed once. What
    stays frozen in the second keeps its batch-norm statistics to the bit.
    """

    head_epochs: int = 0
    """Passes over the cached features; 0 skips the phase."""
    head_rate: float = 3e-3
    unfreeze_blocks: int | None = None
    """How many of the last blocks the second phase trains; `null` is all."""
    norms: bool = False
    """Keep the batch-norm statistics of the trained blocks fixed as well."""

    def __post_init__(self) -> None:
        _range(self.head_epochs, 0, 10_000, "freeze.head_epochs")
        _range(self.head_rate, 0, 10, "freeze.head_rate")
        if self.unfreeze_blocks is not None:
            _range(self.unfreeze_blocks, 0, 1000, "freeze.unfreeze_blocks")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every choice of a training run. `null` in JSON is `None` here: decided from the data."""

    name: str = "custom"
    epochs: int | None = None
    """Passes over the training pictures; `null`: `picture_budget` divided by their number."""
    picture_budget: int = 16_000
    """Training views to see in all where `epochs` is `null`, with 3 to 200 epochs."""
    batch_size: int = 32
    optimizer: Optimizer = "adamw"
    """`rmsprop` is the papers': decay 0.9, momentum 0.9 (arXiv 1905.02244, section 6.1.1)."""
    rate: float = 1e-3
    """Peak learning rate, for a batch of `batch_size`."""
    final_rate: float = 0.01
    """Share of `rate` at which the cosine ends."""
    warmup: float = 0.1
    """Share of all steps in which the rate climbs linearly from zero."""
    weight_decay: float = 0.05
    """On convolution and classifier weights of more than one dimension, depthwise ones excepted."""
    label_smoothing: float = 0.1
    dropout: float | None = None
    """`null` keeps the network's own."""
    ema_decay: float = 0.998
    """Decay per step of the weights' exponential moving average, which is what is evaluated and kept;
    it starts lower: min(decay, (1 + step) / (10 + step)). 0 is none."""
    balance: Balance = "auto"
    """`weighted` weighs classes by their effective number (arXiv 1901.05555, β = 0.999); `auto` does so
    where the largest class has over three times the pictures of the smallest."""
    clip_norm: float = 5.0
    """Largest norm of the gradient; 0 is none."""
    fit: Fit | None = None
    """How pictures are made square; `null` keeps the checkpoint's way, or `crop`."""
    crop_fraction: float | None = None
    """`null` keeps the checkpoint's, or 0.875."""
    precision: Precision = "auto"
    """`auto` measures a few steps at the start and takes bf16 where it is clearly faster."""
    layout: Layout = "auto"
    threads: int | None = None
    """Threads on a CPU, on which the bits of the result depend; `null` measures one against all cores."""
    augment: Augment = field(default_factory=Augment)
    freeze: Freeze = field(default_factory=Freeze)

    def __post_init__(self) -> None:
        if self.epochs is not None:
            _range(self.epochs, 0, 100_000, "epochs")
        _range(self.picture_budget, 1, 10**10, "picture_budget")
        _range(self.batch_size, 2, 65_536, "batch_size")
        _range(self.rate, 0, 100, "rate")
        _range(self.weight_decay, 0, 10, "weight_decay")
        _range(self.clip_norm, 0, 1e9, "clip_norm")
        for name in ("final_rate", "warmup", "label_smoothing", "ema_decay"):
            _range(getattr(self, name), 0, 1, name)
        if self.threads is not None:
            _range(self.threads, 1, 4096, "threads")
        if self.dropout is not None:
            _range(self.dropout, 0, 0.999, "dropout")
        if self.crop_fraction is not None:
            _range(self.crop_fraction, 0.01, 1, "crop_fraction")
        if self.epochs == 0 and self.freeze.head_epochs == 0:
            raise RecipeError("recipe: epochs and freeze.head_epochs are both 0; nothing would be trained.")

    def epochs_for(self, pictures: int) -> int:
        """Passes over a training split of `pictures`."""
        if self.epochs is not None:
            return self.epochs
        return min(200, max(3, round(self.picture_budget / max(1, pictures))))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives back an equal recipe."""
        return dataclasses.asdict(self)


PRESETS: dict[str, Recipe] = {
    "finetune": Recipe(
        name="finetune",
        rate=5e-4,
        weight_decay=0.02,
        freeze=Freeze(head_epochs=30),
    ),
    "scratch": Recipe(
        name="scratch",
        picture_budget=60_000,
        rate=2e-3,
        augment=Augment(crop_area=(0.3, 1.0)),
    ),
    "head-only": Recipe(
        name="head-only",
        epochs=0,
        weight_decay=0.02,
        freeze=Freeze(head_epochs=60, unfreeze_blocks=0),
    ),
    "digits": Recipe(
        name="digits",
        epochs=25,
        rate=3e-3,
        fit="stretch",
        crop_fraction=1.0,
        label_smoothing=0.05,
        ema_decay=0.99,
        augment=Augment(
            crop_area=(0.8, 1.0),
            flip=False,
            rotate_degrees=8,
            shift=0.06,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
        ),
    ),
}


def preset(name: str) -> Recipe:
    """A preset by name; `UnknownName` with the nearest otherwise."""
    if name not in PRESETS:
        raise UnknownName("recipe", name, PRESETS, remedy="Or give a JSON file (see --print-recipe).")
    return PRESETS[name]


def from_json(value: Any, where: str = "recipe") -> Recipe:
    """A recipe from JSON values. Fields that are left out keep their defaults."""
    recipe: Recipe = _build(Recipe, value, where)
    return recipe


def with_settings(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """`recipe` with `key=value` settings from a command line; `augment.flip=false` reaches inside.

    Values are JSON where they parse as JSON, else text.
    """
    raw = recipe.to_json()
    for key, text in settings.items():
        target: dict[str, Any] = raw
        *parents, last = key.split(".")
        known = Recipe
        for parent in parents:
            if parent not in ("augment", "freeze"):
                raise UnknownName("recipe setting", key, _settings())
            target, known = target[parent], {"augment": Augment, "freeze": Freeze}[parent]  # type: ignore[assignment]
        if last not in {f.name for f in dataclasses.fields(known)} or last in ("augment", "freeze"):
            raise UnknownName("recipe setting", key, _settings())
        try:
            target[last] = json.loads(text)
        except json.JSONDecodeError:
            target[last] = text
    return from_json(raw)


def _settings() -> list[str]:
    inner = {"augment": Augment, "freeze": Freeze}
    own = [f.name for f in dataclasses.fields(Recipe) if f.name not in inner]
    return own + [f"{key}.{f.name}" for key, cls in inner.items() for f in dataclasses.fields(cls)]


def _build(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected an object of fields, got {type(value).__name__}.")
    hints = get_type_hints(cls)
    fields = {}
    for key, raw in value.items():
        if key not in hints:
            raise UnknownName(f"field in {where}", str(key), hints)
        fields[key] = _value(hints[key], raw, f"{where}.{key}")
    return cls(**fields)


def _value(hint: Any, raw: Any, where: str) -> Any:
    """`raw` as `hint` wants it: a whole number may stand for a real one, a list for a tuple."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, raw, where)
    if origin in (types.UnionType, Union):
        if raw is None:
            return None
        return _value(next(a for a in args if a is not type(None)), raw, where)
    if origin is Literal:
        if raw not in args:
            raise RecipeError(f"{where} is {raw!r}; accepted: {', '.join(args)}.")
        return raw
    if origin is tuple:
        if not isinstance(raw, list | tuple) or len(raw) != len(args):
            raise RecipeError(f"{where} is {raw!r}; it takes a list of {len(args)} numbers.")
        return tuple(_value(a, r, where) for a, r in zip(args, raw, strict=True))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        raw = float(raw)
    if not isinstance(raw, hint) or (hint is int and isinstance(raw, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise RecipeError(f"{where} is {raw!r}; it takes {words[hint]}.")
    return raw
