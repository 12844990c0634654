"""Which network of which implementation a dict of named tensors is.

The names decide the implementation and the family, the shapes the width, the rounding rule, the
classes and the channels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError
from mobilenets.spec import Spec
from mobilenets.text import count, printable
from mobilenets.weights.source import (
    IMAGENET_CLASSES,
    Found,
    Place,
    Source,
    Tensors,
    shape_there,
    to_ours,
    without_background,
)
from mobilenets.zoo import Rule

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """A network of the zoo beside the tensors of a file."""

    source: Source
    prefix: str
    spec: Spec
    rule: Rule
    width: float
    places: Mapping[str, Place]
    """Our tensor name → where the source keeps it."""
    wrong: tuple[str, ...]
    """Our names of the tensors whose shapes differ; empty where the network fits."""
    excess: int
    """How many of those are larger in the network than in the file, less how many are smaller."""


def identify(shapes: Shapes, sources: Sequence[Source]) -> Match:
    """The network whose tensors, under the names of one of `sources`, have exactly these names and shapes.

    Earlier sources come first, then published widths, then the roundest number that gives the
    shapes. Raises `CheckpointError` naming the first tensor that fits nothing.
    """
    candidates = _with_these_names(shapes, sources)
    fits = (
        _fit_width(source, prefix, rule, shapes) for source, prefix in candidates for rule in source.rules
    )
    best = None
    for match in fits:
        if not match.wrong:
            return match
        best = match if best is None or len(match.wrong) < len(best.wrong) else best
    assert best is not None
    first = best.wrong[0]
    place = best.places[first]
    expected = shape_there(place.layout, specs.tensor_shapes(best.spec)[first])
    raise CheckpointError(
        f"tensor '{printable(place.name)}' has shape {shapes[place.name]}; {best.spec.name}, the nearest "
        f"network, has {expected} there "
        f"({len(best.places) - len(best.wrong)} of {count(len(best.places), 'tensor')} fit it).",
        remedy="A changed architecture cannot be imported.",
    )


def names_are_known(names: Iterable[str], sources: Sequence[Source]) -> bool:
    """Whether at least half of `names` are those of a network of `sources`: it is meant to be one."""
    return max(_likeness(names, sources).values()) >= _ALIKE


_ALIKE = 0.5


def _likeness(names: Iterable[str], sources: Sequence[Source]) -> dict[tuple[str, str], float]:
    """For each source and network: names in common ÷ names of either."""
    found = set(names)
    scores = {}
    for source in sources:
        for prefix in source.prefixes:
            expected = set(_names_there(source, prefix))
            scores[source.name, prefix] = len(expected & found) / len(expected | found)
    return scores


def _with_these_names(shapes: Shapes, sources: Sequence[Source]) -> list[tuple[Source, str]]:
    """The sources' networks with exactly these tensor names."""
    found = set(shapes)
    scores = _likeness(shapes, sources)
    best = max(scores.values())
    nearest = [(s, prefix) for s in sources for prefix in s.prefixes if scores[s.name, prefix] == best]
    if best < _ALIKE:
        name, shape = next(iter(shapes.items()), ("", ()))
        known = ", ".join(source.name for source in sources)
        raise CheckpointError(
            f"is no MobileNet under the tensor names of {known}"
            + (
                f": its first tensor is '{printable(name)}' with shape {shape}." if name else ": it is empty."
            ),
            remedy=f"Known there: {', '.join(zoo.ZOO)}, at any width.",
        )
    source, prefix = nearest[0]
    expected_names = _names_there(source, prefix)
    missing = next((name for name in expected_names if name not in found), None)
    what = f"{prefix} of {source.name}, the nearest network"
    if missing is not None:
        raise CheckpointError(f"tensor '{missing}' is missing; {what}, has it.")
    extra = next((name for name in shapes if name not in expected_names), None)
    if extra is not None:
        raise CheckpointError(f"tensor '{printable(extra)}' does not belong to {what}.")
    return nearest


def _names_there(source: Source, prefix: str) -> dict[str, str]:
    """The names of a network's tensors there → ours. They are the same at every width."""
    return {place.name: ours for ours, place in _places_of(source, prefix).items()}


_CACHE: dict[tuple[str, str], dict[str, Place]] = {}


def _places_of(source: Source, prefix: str) -> dict[str, Place]:
    key = source.name, prefix
    if key not in _CACHE:
        _CACHE[key] = source.places(zoo.ZOO[prefix].build(1.0))
    return _CACHE[key]


def _fit_width(source: Source, prefix: str, rule: Rule, shapes: Shapes) -> Match:
    """The width whose shapes are these, or else the one with the fewest that differ.

    Every channel count grows with the width, so the rest after the published widths is bisection;
    the majority of tensors decides the direction, so that one wrong tensor cannot mislead it.
    """
    entry = zoo.ZOO[prefix]
    best = _probe(source, prefix, rule, entry.widths[-1], shapes)
    for width in entry.widths:
        best = min(_probe(source, prefix, rule, width, shapes), best, key=lambda match: len(match.wrong))
    low, high = 0.0, zoo.MAX_WIDTH
    while best.wrong and high - low > 1e-6:
        middle = (low + high) / 2
        match = _probe(source, prefix, rule, middle, shapes)
        if not match.wrong:
            return _roundest(match, shapes)
        best = min(best, match, key=lambda match: len(match.wrong))
        if match.excess == 0:
            break
        low, high = (low, middle) if match.excess > 0 else (middle, high)
    return best


def _roundest(match: Match, shapes: Shapes) -> Match:
    """The roundest width with the same shapes. Those widths are an interval around the match's."""
    for step in (20, 100, 1000):
        for steps in (math.floor(match.width * step), math.ceil(match.width * step)):
            if steps > 0:
                rounder = _probe(match.source, match.prefix, match.rule, steps / step, shapes)
                if not rounder.wrong:
                    return rounder
    return match


def _probe(source: Source, prefix: str, rule: Rule, width: float, shapes: Shapes) -> Match:
    places = _places_of(source, prefix)
    channels, classes = _ends(places, shapes)
    spec = zoo.ZOO[prefix].build(width, rule=rule, classes=classes, channels=channels)
    wrong, excess = [], 0
    for ours, shape in specs.tensor_shapes(spec).items():
        expected, found = shape_there(places[ours].layout, shape), shapes[places[ours].name]
        if found != expected:
            wrong.append(ours)
            larger, smaller = math.prod(expected) > math.prod(found), math.prod(expected) < math.prod(found)
            excess += larger - smaller
    return Match(source, prefix, spec, rule, width, places, tuple(wrong), excess)


def _ends(places: Mapping[str, Place], shapes: Shapes) -> tuple[int, int]:
    """Channels of the picture and number of classes, from the first weight and the last bias."""
    stem, bias = next(iter(places.values())), places["classifier.bias"]
    for place, dimensions in ((stem, 4), (bias, 1)):
        shape = shapes[place.name]
        if len(shape) != dimensions or not all(shape):
            raise CheckpointError(
                f"tensor '{printable(place.name)}' has shape {shape}, which no network here has."
            )
    weight = shapes[stem.name]
    return weight[2] if stem.layout == "hwio" else weight[1], shapes[bias.name][0]


def found_by_name(tensors: Tensors, sources: Sequence[Source]) -> Found:
    """The network in `tensors`, which carry the names of one of `sources`, with what that source assumes."""
    match = identify({name: array.shape for name, array in tensors.items()}, sources)
    spec = match.source.conventions(match.spec)
    ours = specs.tensor_shapes(spec)
    turned: Tensors = {
        name: to_ours(place.layout, tensors[place.name], ours[name]) for name, place in match.places.items()
    }
    notes = [
        f"Names and shapes are those of {spec.name} in {match.source.name}: width {match.width:g}, "
        f"{count(spec.classes, 'class', 'classes')}, {count(spec.channels, 'channel')}."
    ]
    if match.rule != match.source.rules[0]:
        notes.append(f"Channels are rounded by the rule '{match.rule}'.")
    if match.width not in zoo.ZOO[match.prefix].widths:
        notes.append("That width is the roundest number which gives these shapes.")
    if match.source.background and spec.classes == IMAGENET_CLASSES + 1:
        spec, turned = without_background(spec, turned)
        notes.append("Class 0, TensorFlow's background, was left out: 1,000 classes remain.")
    return Found(match.source.name, spec, turned, match.source.preprocessing(spec), tuple(notes))
