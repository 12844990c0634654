"""docs/parity.md: every network that others publish, its counts and how far its logits are from ours.

`MOBILENETS_REWRITE_DOCUMENTS=1 python -m pytest -m full tests/test_parity_table.py` measures and writes it.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from mobilenets import cost
from mobilenets.spec import Spec
from mobilenets.tolerances import LOGITS_RELATIVE

torch = pytest.importorskip("torch")
import keras_reference  # noqa: E402
import parity_rows  # noqa: E402
import test_keras_parity  # noqa: E402
import test_timm_parity  # noqa: E402
import test_torchvision_parity  # noqa: E402
import test_transformers_parity  # noqa: E402
from mobilenets import zoo  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs/parity.md"
if not PAGE.parents[1].joinpath("README.md").is_file():
    pytest.skip("the documents lie beside the tests in the repository alone", allow_module_level=True)
REWRITE = "MOBILENETS_REWRITE_DOCUMENTS"
PIXELS, ODD = 224, 97
BEGIN, END = "<!-- table: parity -->\n", "<!-- end -->\n"
EQUAL = "equal to the bit"

TENSORFLOW = {"padding": "same", "epsilon": 1e-3}
"""How timm's `tf_` networks compute, which their tensors do not say."""
TIMM = {
    **test_timm_parity.NETWORKS,
    "tf_mobilenetv3_large_075": (zoo.v3_large, 0.75),
    "tf_mobilenetv3_large_100": (zoo.v3_large, 1.0),
    "tf_mobilenetv3_small_075": (zoo.v3_small, 0.75),
    "tf_mobilenetv3_small_100": (zoo.v3_small, 1.0),
}


class Case(NamedTuple):
    """A row to be: the library, its name for the network, the width, and the network here."""

    package: str
    variant: str
    width: float
    spec: Spec


def cases() -> list[Case]:
    torchvision = [*test_torchvision_parity.PUBLISHED, *test_torchvision_parity.OTHERS]
    return [
        *(Case("timm", name, width, family(width)) for name, (family, width) in sorted(TIMM.items())),
        *(
            Case("torchvision", name, width, zoo.ZOO[name].build(width, rule="torchvision"))
            for name, width in sorted(torchvision)
        ),
        *(
            Case("transformers", name, width, zoo.ZOO[name].build(width, rule="paper"))
            for name, width in sorted(test_transformers_parity.PUBLISHED)
        ),
        *(
            Case("keras", name, width, keras_reference.spec_of(name, width))
            for name, width in keras_reference.NETWORKS
        ),
    ]


def timm_row(timm, folder, name, width):
    theirs = parity_rows.randomise(timm.create_model(name))
    given = TENSORFLOW if name.startswith("tf_") else {}
    return parity_rows.measure(
        "timm",
        timm.__version__,
        name,
        width,
        ours=parity_rows.imported(parity_rows.saved_state(theirs, folder), **given),
        theirs=theirs,
        counts=parity_rows.torch_counts(theirs, PIXELS),
        pixels=PIXELS,
        odd=ODD,
    )


ROWS = {
    "timm": timm_row,
    "torchvision": test_torchvision_parity.row,
    "transformers": test_transformers_parity.row,
    "keras": test_keras_parity.row,
}


def cells(row):
    """A row's cells: what is the same on every machine, and the logits."""
    logits = EQUAL if row.bit_equal else f"{row.max_diff / row.logit_std:.0e} σ"
    library = f"{row.package} {row.version.partition('+')[0]}"
    return [library, f"`{row.variant}`", f"{row.width:g}", f"{row.params:,}", f"{row.macs:,}"], logits


def table(rows):
    lines = ["| library | network there | α | parameters | MACs | logits |", "|---|---|--:|--:|--:|---|"]
    for row in rows:
        fixed, logits = cells(row)
        lines.append(f"| {' | '.join([*fixed, logits])} |")
    return "\n".join(lines) + "\n"


def documented():
    """The cells of every row on the page."""
    inside = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.splitlines()[2:]]


def test_every_network_that_they_publish_has_its_row():
    """With the parameters and MACs of our `Spec`, which need no other library."""
    expected = []
    for case in cases():
        counted = cost.count(dataclasses.replace(case.spec, resolution=PIXELS))
        expected.append(
            [case.package, f"`{case.variant}`", f"{case.width:g}", f"{counted.params:,}", f"{counted.macs:,}"]
        )
    assert [[row[0].split(" ")[0], *row[1:5]] for row in documented()] == expected


def test_no_row_is_further_off_than_rounding():
    """PyTorch's libraries to the bit; Keras, whose model runs other operations, within the tolerance."""
    for row in documented():
        if row[5] != EQUAL:
            assert row[0].startswith("keras "), row
            assert float(row[5].removesuffix(" σ")) <= LOGITS_RELATIVE, row


@pytest.mark.full
def test_the_table_is_what_is_measured(timm, torchvision, transformers, tmp_path):
    libraries = {
        "timm": timm,
        "torchvision": torchvision,
        "transformers": transformers,
        "keras": keras_reference.load_keras(),
    }
    rows = []
    for index, case in enumerate(cases()):
        folder = tmp_path / str(index)
        folder.mkdir()
        rows.append(ROWS[case.package](libraries[case.package], folder, case.variant, case.width))
        for file in folder.iterdir():
            file.unlink()
    if os.environ.get(REWRITE):
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2], encoding="utf-8")
        return
    for row, there in zip(rows, documented(), strict=True):
        fixed, _ = cells(row)
        assert there[:5] == fixed, f"write it anew: {REWRITE}=1 python -m pytest -m full {__file__}"
        if there[5] == EQUAL:
            assert row.bit_equal, row
        assert row.max_diff <= LOGITS_RELATIVE * row.logit_std, row
