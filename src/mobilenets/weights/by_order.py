"""Plain PyTorch repositories whose names nobody here knows: a network by the order and shapes of its tensors.

`torch.save(model.state_dict())` keeps the order in which a model registers its layers, and nearly
everybody registers them in the order in which they run. So a file whose tensors have, one after the
other, the shapes of a network of the zoo is that network. What shapes cannot say (activations,
padding, epsilon) is the family's, and is told. `repositories` knows where plain repositories differ.
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

from mobilenets import spec as specs
from mobilenets import zoo
from mobilenets.errors import CheckpointError
from mobilenets.preprocessing import Preprocessing, for_channels
from mobilenets.spec import Spec
from mobilenets.text import count, first_few, printable
from mobilenets.weights.matching import Match, _fit_width
from mobilenets.weights.repositories import (
    GATE_POSITIONS,
    Layout,
    Slot,
    Unit,
    always_expanding,
    fitted,
    gates_before_activation,
    has_places,
    slots_of,
    units_of,
    with_early_gates,
    with_relu,
)
from mobilenets.weights.source import IMAGENET_MEAN, IMAGENET_STD, Found, Place, Source, Tensors
from mobilenets.zoo import Rule

NEAR = 0.8
"""Share of layers that agree in kind and order, from which a file is a changed MobileNet and no other net."""


def _conventions(spec: Spec) -> Spec:
    """Torch's own: a plain repository pads symmetrically and leaves batch norm's defaults."""
    return dataclasses.replace(spec, padding="symmetric", norm_epsilon=1e-5, norm_momentum=0.1)


def _preprocessing(spec: Spec) -> Preprocessing:
    """That of torch's ImageNet example, which such repositories start from."""
    usual = for_channels(spec.channels)
    if spec.channels != len(IMAGENET_MEAN):
        return usual
    return dataclasses.replace(usual, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _places(spec: Spec) -> dict[str, Place]:
    return {name: Place(name) for name in specs.tensor_shapes(spec)}


_ORDERED = Source(
    name="a plain PyTorch repository",
    prefixes=tuple(prefix for prefix, entry in zoo.ZOO.items() if has_places(entry.build(1.0))),
    rules=get_args(Rule),
    places=_places,
    conventions=_conventions,
    preprocessing=_preprocessing,
)
"""Our own names: a file's tensors get them by their order before they are looked up."""


@dataclass(frozen=True)
class _Candidate:
    """A network of the zoo, or a variant of one that plain repositories have, at width 1.0."""

    prefix: str
    spec: Spec
    layouts: tuple[tuple[Slot, ...], ...]
    """Its places in every order in which a repository may register them."""
    variant: str
    """What differs from the zoo's; such a variant is known at width 1.0 alone."""


@cache
def _candidates() -> tuple[_Candidate, ...]:
    wide = zoo.v3_small(head=1280)
    expands, head = "its first block expands as well", "its head has 1,280 channels"
    specs_of = [(prefix, zoo.ZOO[prefix].build(1.0), "") for prefix in _ORDERED.prefixes]
    specs_of.append(("mobilenet_v3_small", wide, head))
    specs_of += [
        (prefix, always_expanding(zoo.ZOO[prefix].build(1.0)), expands)
        for prefix in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
    ]
    specs_of.append(("mobilenet_v3_small", always_expanding(wide), f"{expands}, and {head}"))
    return tuple(
        _Candidate(prefix, spec, tuple(slots_of(spec, position) for position in GATE_POSITIONS), variant)
        for prefix, spec, variant in specs_of
    )


@dataclass(frozen=True)
class _Fit:
    """A candidate whose layers are those of the file, in order, at the width that fits best."""

    spec: Spec
    layout: Layout
    width: float
    rule: Rule | None
    variant: str
    wrong: tuple[str, ...]
    """Our names of the tensors whose shapes differ."""
    note: str = ""
    """How the order was found, where it was not that of the file."""


def found_by_order(tensors: Tensors) -> Found:
    """The network whose tensors, in this order, have these shapes; the names do not matter.

    Raises `CheckpointError`: where the file is nearly a network, naming the tensor that is wrong,
    missing or in excess; where its names are in alphabetical order, as safetensors stores them, so
    that the order of the layers is lost; else saying that it is no MobileNet.
    """
    attempts = list(_orders(list(tensors)))
    fits = [fit for names, note in attempts for fit in _fits(units_of(names, tensors), tensors, note)]
    whole = [fit for fit in fits if not fit.wrong]
    if whole:
        return _found(whole, tensors)
    if fits:
        raise _wrong_shape(min(fits, key=lambda fit: len(fit.wrong)), tensors)
    raise _no_network(attempts, tensors)


def _orders(names: list[str]) -> Iterator[tuple[list[str], str]]:
    """The order of the file; where that is the alphabet's, natural order with the groups in any order."""
    yield names, ""
    if names != sorted(names):
        return
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=_natural):
        groups.setdefault(name.partition(".")[0], []).append(name)
    if len(groups) > 5:
        return
    for order in itertools.permutations(groups):
        said = ", ".join(printable(group) for group in order)
        note = (
            "The file stores names alphabetically, so the order of the layers is lost; by their numbers, "
            f"with the groups in the order {said}, it fits."
        )
        yield [name for group in order for name in groups[group]], note


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts `features.2` before `features.10`."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)|\.", name)
        if part
    ]


def _fits(units: Sequence[Unit], tensors: Tensors, note: str) -> Iterator[_Fit]:
    """Every candidate with these layers in this order; its shapes may still differ."""
    forms = [unit.form for unit in units]
    for candidate in _candidates():
        for slots in candidate.layouts:
            if [slot.form for slot in slots] == forms:
                yield from _at_its_width(candidate, Layout(slots, tuple(units)), tensors, note)
                break


def _at_its_width(candidate: _Candidate, layout: Layout, tensors: Tensors, note: str) -> Iterator[_Fit]:
    shapes = layout.shapes(tensors)
    if candidate.variant:
        spec = _with_ends(candidate.spec, shapes)
        expected = specs.tensor_shapes(spec)
        wrong = tuple(name for name, shape in expected.items() if shapes[name] != shape)
        yield _Fit(spec, layout, 1.0, None, candidate.variant, wrong, note)
        return
    matches: list[Match] = []
    for rule in _ORDERED.rules:
        match = _fit_width(_ORDERED, candidate.prefix, rule, shapes)
        if not any(_same_network(match.spec, other.spec) for other in matches):
            matches.append(match)
    for match in matches:
        yield _Fit(match.spec, layout, match.width, match.rule, "", match.wrong, note)


def _with_ends(spec: Spec, shapes: dict[str, tuple[int, ...]]) -> Spec:
    stem = next(iter(shapes.values()))
    return dataclasses.replace(spec, channels=stem[1], classes=shapes["classifier.weight"][0])


def _same_network(a: Spec, b: Spec) -> bool:
    return (a.blocks, a.head) == (b.blocks, b.head)


# --- what was found -----------------------------------------------------------------------------


def _found(fits: Sequence[_Fit], tensors: Tensors) -> Found:
    """The first fit with its tensors, in the form that plain repositories compute."""
    fit, *others = fits
    spec = _conventions(fit.spec)
    arrays = fitted(spec, fit.layout.arrays(tensors))
    notes = [_what(fit, spec), fit.note, fit.variant and f"It differs from the paper's: {fit.variant}."]
    notes += fit.layout.notes
    rest = [other.spec.name for other in others if not _same_network(other.spec, fit.spec)]
    if rest:
        notes.append(f"The same shapes have {first_few(list(dict.fromkeys(rest)))}: not taken.")
    if fit.layout.dense_head:
        spec = dataclasses.replace(
            spec, head=tuple(dataclasses.replace(conv, dense=True) for conv in spec.head)
        )
    early = gates_before_activation(fit.layout)
    if early:
        spec, arrays = with_early_gates(spec, arrays, early)
        notes.append(
            f"In {count(len(early), 'block')} the numbers of the names leave no place for an activation "
            "between the depthwise norm and the gate: there the gate comes before the activation, which "
            "is a layer of its own here."
        )
    spec, relu_note = with_relu(spec)
    notes += [
        relu_note,
        "Shapes do not say activations, padding and epsilon: they are the family's and torch's own. Check "
        "the accuracy, or compare conventions on labelled pictures with --detect.",
    ]
    preprocessing = _ORDERED.preprocessing(spec)
    return Found(_ORDERED.name, spec, arrays, preprocessing, tuple(note for note in notes if note))


def _what(fit: _Fit, spec: Spec) -> str:
    rounding = f" (channels rounded by the rule '{fit.rule}')" if fit.rule not in (None, "timm") else ""
    return (
        "The tensors' names are nobody's whom we know; their order and shapes are exactly those of "
        f"{spec.name}: width {fit.width:g}{rounding}, {count(spec.classes, 'class', 'classes')}, "
        f"{count(spec.channels, 'channel')}."
    )


# --- what is refused ----------------------------------------------------------------------------


def _wrong_shape(fit: _Fit, tensors: Tensors) -> CheckpointError:
    ours = fit.wrong[0]
    name, expected = fit.layout.name_of(ours), specs.tensor_shapes(fit.spec)
    fitting = len(expected) - len(fit.wrong)
    return CheckpointError(
        f"tensor '{printable(name)}' has shape {tensors[name].shape}; by the order of its tensors the "
        f"nearest network is {fit.spec.name}, with {expected[ours]} there "
        f"({fitting} of {count(len(expected), 'tensor')} fit it).",
        remedy="A changed architecture cannot be imported.",
    )


def _no_network(attempts: Sequence[tuple[list[str], str]], tensors: Tensors) -> CheckpointError:
    """The error for tensors that are no network's, by how near they come to one."""
    best, same_layers, nearest = -1.0, 0.0, None
    for names, _ in attempts[:25]:
        units = units_of(names, tensors)
        forms = [unit.form for unit in units]
        for candidate in _candidates():
            slots = candidate.layouts[0]
            matcher = difflib.SequenceMatcher(None, [slot.form for slot in slots], forms, autojunk=False)
            same_layers = max(same_layers, matcher.quick_ratio())  # in any order
            if matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
                best, nearest = ratio, (candidate, slots, units, matcher.get_opcodes())
    if nearest is not None and best >= NEAR:
        return _changed(*nearest, tensors)
    if same_layers >= NEAR and list(tensors) == sorted(tensors):
        return CheckpointError(
            "has the layers of a MobileNet under names that nobody here knows, in alphabetical order, as "
            "safetensors stores them: the order of the layers, by which they could be recognised, is lost.",
            remedy="Import the file that torch.save(model.state_dict(), FILE) writes: it keeps the order.",
        )
    name = next(iter(tensors), "")
    first = (
        f"its first tensor is '{printable(name)}' with shape {tensors[name].shape}" if name else "it is empty"
    )
    return CheckpointError(
        "is no MobileNet: neither the names nor the order and shapes of its tensors are those of one; "
        f"{first}.",
        remedy=f"Known by their order: {', '.join(_ORDERED.prefixes)}.",
    )


def _changed(
    candidate: _Candidate,
    slots: Sequence[Slot],
    units: Sequence[Unit],
    changes: Sequence[tuple[str, int, int, int, int]],
    tensors: Tensors,
) -> CheckpointError:
    """The first layer at which a file and its nearest network part."""
    kind, i, _, j, _ = next(change for change in changes if change[0] != "equal")
    near = f"{candidate.prefix}, the nearest network by the order of its tensors,"
    remedy = "A changed architecture cannot be imported."
    if kind != "insert" and slots[i].weight.startswith("classifier"):
        return CheckpointError(
            f"has no classifier: its last tensor is '{printable(list(tensors)[-1])}', and {near} has "
            "classifier.weight and classifier.bias after its features.",
            remedy="Only classifiers can be imported, not bodies without one.",
        )
    if kind == "delete":
        before = units[j - 1].path if j else "the beginning"
        return CheckpointError(
            f"after '{printable(before)}' there is a {slots[i].form} layer missing, which {near} has there.",
            remedy=remedy,
        )
    unit = units[j]
    if kind == "replace" and (missing := unit.missing_from(slots[i].form)):
        return CheckpointError(f"tensor '{printable(missing)}' is missing; {near} has it.", remedy=remedy)
    name = next(iter(unit.parts.values()))
    there = f"has a {slots[i].form} layer there" if kind == "replace" else "has no such layer there"
    return CheckpointError(
        f"tensor '{printable(name)}' has shape {tensors[name].shape}; {near} {there}.", remedy=remedy
    )
