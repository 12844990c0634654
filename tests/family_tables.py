"""The tables of numbers in README.md and docs/family.md, made from the code, so that none is typed.

`tests/test_documents.py` compares them, and writes them anew where MOBILENETS_REWRITE_DOCUMENTS is set.
"""

from collections.abc import Iterable, Sequence
from typing import get_args

from mobilenets import cost, zoo
from mobilenets.cost import Cost
from mobilenets.spec import Spec
from mobilenets.zoo import ZOO, Rule

WIDTHS = (0.1, 0.25, 0.35, 0.5, 0.6, 0.75, 1.0, 1.25, 1.4)
"""Where the rules are compared: published widths and some between and beyond."""
BASES = ("mobilenet_v1", "mobilenet_v3_large", "mobilenet_v3_small")
"""Networks with a table of rules; their variants have the same widths and part at the same places."""


def table(head: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; `sides` has an `l` or an `r` for each column."""
    lines = [head, ["--:" if side == "r" else "---" for side in sides], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def millions(n: float) -> str:
    return f"{n / 1e6:,.2f} M" if n < 1e7 else f"{n / 1e6:,.1f} M"


def name_pattern(prefix: str) -> str:
    """`mobilenet_v2_{035,050}` for every published name of one prefix."""
    names = [name for name in zoo.names() if zoo.parse(name)[0] == prefix]
    if len(names) == 1:
        return f"`{names[0]}`"
    plain = [name for name in names if name == prefix]
    numbered = ",".join(name.removeprefix(f"{prefix}_") for name in names if name != prefix)
    return ", ".join([f"`{name}`" for name in plain] + [f"`{prefix}_{{{numbered}}}`"])


def span(values: Iterable[float], text: str) -> str:
    """`1.68 – 6.11`, or one number."""
    shown = list(dict.fromkeys(format(value, text) for value in sorted(values)))
    return " – ".join(shown if len(shown) < 2 else (shown[0], shown[-1]))


def family() -> str:
    """README: a line for each line of networks, at the paper's resolution."""
    rows = []
    for prefix, entry in ZOO.items():
        costs = [cost.count(entry.build(width)) for width in entry.widths]
        top1 = [p.top1 for p in entry.published.values() if p.top1 is not None]
        rows.append(
            (
                name_pattern(prefix),
                f"{span((c.params / 1e6 for c in costs), '.2f')} M",
                f"{span((c.macs / 1e6 for c in costs), ',.0f')} M",
                f"{span(top1, '.1f')} %",
            )
        )
    return table(("network", "parameters", "MACs", "top-1, as published"), "lrrr", rows)


def networks() -> str:
    """Every published network with its exact counts."""
    rows = []
    for name in zoo.names():
        spec, published = zoo.build(name), zoo.published(name)
        counted = cost.count(spec)
        assert published is not None
        rows.append(
            (
                f"`{name}`",
                f"{spec.resolution}",
                f"{counted.params:,}",
                f"{counted.macs:,}",
                f"{counted.activation_bytes:,}",
                "–" if published.top1 is None else f"{published.top1:.1f}",
                published.source,
            )
        )
    head = ("name", "px", "parameters", "MACs", "activation bytes", "top-1, %", "who says so")
    return table(head, "lrrrrrl", rows)


def agreeing_rules(prefix: str, width: float) -> list[tuple[list[str], Spec]]:
    """The rules in groups that give one and the same network at `width`."""
    groups: list[tuple[list[str], Spec]] = []
    for rule in get_args(Rule):
        spec = ZOO[prefix].build(width, rule=rule)
        group = next((rules for rules, other in groups if other == spec), None)
        if group is None:
            groups.append(([rule], spec))
        else:
            group.append(rule)
    return groups


def rules() -> str:
    """Parameters by rule, where the rules part."""
    rows = []
    for prefix in BASES:
        for width in WIDTHS:
            groups = agreeing_rules(prefix, width)
            if len(groups) > 1:
                params = {rule: cost.count(spec).params for rules, spec in groups for rule in rules}
                rows.append((f"`{prefix}`", f"{width:g}", *(f"{params[rule]:,}" for rule in get_args(Rule))))
    return table(("network", "α", *(f"`{rule}`" for rule in get_args(Rule))), "lrrrrr", rows)


def unnormed(counted: Cost) -> int:
    """Parameters without batch norms' scales and shifts: as many as there are statistics."""
    return counted.params - counted.statistics


def misprints() -> str:
    """What papers and READMEs print, and what their networks cost."""
    v1, v1_full, v2_140 = cost.count(zoo.v1()), cost.count(zoo.v1(full=True)), cost.count(zoo.v2(1.4))
    large, small = cost.count(zoo.v3_large()), cost.count(zoo.v3_small())
    early = cost.count(zoo.v3_small(head=1280))
    plain = cost.count(zoo.v3_small(minimalistic=True))
    v4 = [cost.count(build()) for build in (zoo.v4_conv_medium, zoo.v4_conv_large)]
    classifier = v1_full.layers[-1].macs
    rows = (
        (
            "V1 paper, Table 1",
            "last depthwise convolution: stride 2, from 7×7 to 7×7",
            "stride 1",
            "all code has stride 1",
        ),
        (
            "V1 paper, Table 2",
            "3×3 convolutions: 1.19 % of the MACs",
            f"{v1.layers[0].macs / v1.macs:.2%}",
            "two digits changed places",
        ),
        (
            "V1 paper, Table 4",
            "full convolutions: 4866 M MACs",
            millions(v1_full.macs),
            f"without the classifier's {millions(classifier)}, which V1's 569 M in the same table include",
        ),
        ("V2 paper, Table 4", "V1: 575 M MACs", millions(v1.macs), "V1's own paper says 569 M"),
        (
            "V2 paper, Table 4",
            "V2 1.4: 6.9 M parameters, 585 M MACs",
            f"{millions(v2_140.params)}, {millions(v2_140.macs)}",
            "no reading found; the authors' README says 6.06 M and 582 M",
        ),
        (
            "TF-slim README",
            "V2 1.4: 6.06 M parameters",
            millions(v2_140.params),
            f"without batch norm: {millions(unnormed(v2_140))}",
        ),
        (
            "TF-slim README",
            "V1 0.25 at 192 px: 34 M MACs",
            millions(cost.count(zoo.v1(0.25, resolution=192)).macs),
            "no reading found",
        ),
        ("V3 paper, Table 3", "Large: 219 M MACs", millions(large.macs), "the authors' README says 217 M"),
        (
            "V3 paper, early versions",
            "Small: 66 M MACs, 2.9 M parameters",
            f"{millions(small.macs)}, {millions(small.params)}",
            f"the head had 1280 channels, `v3_small(head=1280)`: {millions(early.params)}, but "
            f"{millions(early.macs)} MACs",
        ),
        (
            "V3 paper, Table 2",
            "squeeze-and-excite on the last 1×1 convolution",
            "none",
            "no code has it, and the counts agree without it",
        ),
        (
            "TF-slim README",
            "Small minimalistic: 65 M MACs",
            millions(plain.macs),
            "no reading found; its 2.0 M parameters are right",
        ),
        (
            "V4 paper, Table 6",
            "Conv-M: 9.2 M, Conv-L: 31 M parameters",
            " and ".join(millions(c.params) for c in v4),
            "without batch norm, in units of 2²⁰: "
            + " and ".join(f"{unnormed(c) / 2**20:.2f}" for c in v4)
            + " (inferred)",
        ),
        (
            "V4 paper, Table 6",
            "Conv-M: 1.0 G, Conv-L: 5.9 G MACs",
            " and ".join(f"{c.macs / 1e9:.2f} G" for c in v4),
            "in units of 2³⁰: " + " and ".join(f"{c.macs / 2**30:.2f}" for c in v4) + " (inferred)",
        ),
    )
    return table(("where", "printed", "counted", "reading"), "llll", rows)


TABLES = {"family": family, "networks": networks, "rules": rules, "misprints": misprints}
