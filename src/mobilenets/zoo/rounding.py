"""The width multiplier α: how each implementation rounds α · channels, and how names write α."""

from typing import Literal, get_args

from mobilenets.errors import SpecError, UnknownName

Rule = Literal["timm", "paper", "keras", "torchvision"]
MAX_WIDTH = 10.0


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` to the nearest multiple of `divisor`, but never below 90 % of it, nor `divisor`.

    Source: TF-slim `nets/mobilenet/mobilenet.py`; the same in torchvision, Keras and timm.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def check_width(width: float, rule: str) -> None:
    """Raise `SpecError` for a width multiplier outside (0, 10], `UnknownName` for an unknown rule."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= MAX_WIDTH:
        raise SpecError(f"width multiplier is {width!r}; it must be above 0 and at most {MAX_WIDTH:g}.")
    if rule not in get_args(Rule):
        raise UnknownName("rule", str(rule), get_args(Rule))


def suffix(width: float) -> str:
    """The width as names write it: 1.0 → `100`, 0.35 → `035`; other digits are kept."""
    hundredths = round(width * 100, 6)
    return f"{int(hundredths):03d}" if hundredths.is_integer() else f"{hundredths:g}".replace(".", "p")
