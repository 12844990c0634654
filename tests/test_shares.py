"""How threads share a step, and the weights that they fetch: `c/maps.h` by itself, called from here."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mobilenets import zoo
from mobilenets.compiler import plan_of, toolchain
from mobilenets.compiler.fetching import begins, fetches
from mobilenets.compiler.steps import ALIGNMENT, Convolve, Pair, Widths

HARNESS = """
#define BLOCK 16
#define MAX_KERNEL 5
#include "maps.h"
int before(int rows, int whole, int wide, int left, int half, int part, int parts) {
    return rows_before(rows, (Widths){whole, wide, left, half}, part, parts);
}
int pieces(int rows, int tall, int first, int last, int *found) {
    int n = 0;
    for (Range left = {first, last}; left.first < left.last; n++) {
        const Piece piece = next_piece(rows, tall, &left);
        const int values[] = {piece.panel.first, piece.rows.first, piece.rows.last};
        __builtin_memcpy(found + 3 * n, values, sizeof values);
    }
    return n;
}
int line(const int *starts, int first, int lines, int parts, int n) {
    static const float weights[1];
    const Later later = {weights, starts, first, lines, parts};
    return (int)(((uintptr_t)line_of(later, n) - (uintptr_t)weights) / sizeof(float));
}
int before_panel(int first, int last, int rows, int panels, int i, int fetch) {
    return lines_before((Range){first, last}, rows, panels, i, fetch);
}
"""
PARTS = (1, 2, 3, 4, 7, 32)


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    (folder / "harness.c").write_text(HARNESS)
    headers = Path(toolchain.__file__).parent / "c"
    command = [*toolchain.find_compiler().command, "-std=gnu11", "-O1", "-shared", "-fPIC", f"-I{headers}"]
    subprocess.run([*command, "harness.c", "-o", "harness.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "harness.so"))


def widths_of(panels: Widths) -> list[int]:
    return [panels.wide] * panels.whole + [each for each in (panels.left, panels.half) if each]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("rows", [1, 7, 28])
@pytest.mark.parametrize(
    "panels",
    [
        Widths(4, 16, 0, 5),
        Widths(3, 16, 8, 6),
        Widths(1, 32, 24, 0),
        Widths(0, 16, 8, 7),
        Widths(1, 16, 0, 4),
    ],
)
def test_shares_are_even_in_work(c, panels, rows, parts):
    """Within half of the widest row at either end, and nothing is left out."""
    widths = widths_of(panels)
    ends = [c.before(rows, *panels, part, parts) for part in range(parts + 1)]
    assert ends[0] == 0 and ends[-1] == rows * len(widths)
    assert ends == sorted(ends)
    work = np.concatenate([[0], np.cumsum(np.repeat(widths, rows))])
    ideal = work[-1] * np.arange(parts + 1) / parts
    assert np.abs(work[ends] - ideal).max() <= max(widths) / 2 + 1


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("rows", "tall"), [(7, 1), (7, 2), (5, 4), (6, 4), (14, 3)])
def test_every_row_of_every_panel_is_computed_once(c, rows, tall, parts):
    panels = 5
    found = (ctypes.c_int * 3000)()
    times = np.zeros((panels, rows), int)
    for part in range(parts):
        share = (rows * panels * part // parts, rows * panels * (part + 1) // parts)
        for i in range(c.pieces(rows, tall, *share, found)):
            panel, first, last = found[3 * i : 3 * i + 3]
            assert first % tall == 0 or first == rows
            assert last % tall == 0 or last == rows
            times[panel, first:last] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("name", ["mobilenet_v3_large_100", "mobilenet_v1_100"])
def test_threads_fetch_the_weights_that_they_read(c, name, parts):
    """Of every step that they fetch for, those of their own share of it; and few lines twice."""
    plan = plan_of(zoo.build(name))
    starts, found = begins(plan), fetches(plan)
    array = (ctypes.c_int * len(starts))(*starts)
    seen, asked = np.zeros(starts[-1] // ALIGNMENT + 2, bool), 0
    for step in plan.kernels:
        if not isinstance(step, Convolve) or id(step) not in found:
            continue
        first, lines = found[id(step)].first, found[id(step)].lines * step.panels
        index = int(np.searchsorted(starts, first, side="right")) - 1
        asked += lines
        there = ctypes.cast(ctypes.byref(array, 4 * index), ctypes.POINTER(ctypes.c_int))
        for n in range(lines):
            at, part = c.line(there, first, lines, parts, n), n * parts // lines
            begin = int(np.searchsorted(starts, at, side="right")) - 1
            size = starts[begin + 1] - starts[begin]
            own = starts[begin] + size * part // parts, starts[begin] + size * (part + 1) // parts
            assert own[0] - ALIGNMENT <= at < own[1] + 2 * ALIGNMENT, (step.title, n)
            seen[at // ALIGNMENT : (at + ALIGNMENT - 1) // ALIGNMENT + 1] = True
    assert seen.sum() >= 0.98 * asked  # different lines


@pytest.mark.parametrize("parts", PARTS)
def test_rows_of_panels_fetch_in_turn(c, parts):
    """Where threads share rows, each fetches its part of the lines, panel by panel."""
    rows, panels, fetch = 14, 3, 100
    lines = []
    for part in range(parts):
        share = rows * part // parts, rows * (part + 1) // parts
        for i in range(panels):
            before = c.before_panel(*share, rows, panels, i, fetch)
            lines += [before + y * fetch // rows for y in range(*share)]
    assert lines == sorted(lines)
    steps = np.diff([*lines, panels * fetch])
    assert lines[0] == 0 and steps.min() >= fetch // rows - 1 and steps.max() <= fetch // rows + 2


def test_a_plan_has_all_kinds_of_shares():
    """So that the tests of whole networks, by any number of threads, reach them."""
    steps = plan_of(zoo.build("mobilenet_v3_large_100")).steps
    convolutions = [step for step in steps if isinstance(step, Convolve) and step.panels_first]
    assert {step.shares_rows for step in convolutions} == {True, False}
    assert any(step.widths for step in convolutions if not step.shares_rows)
    assert any(step.widths and step.widths.half for step in steps if isinstance(step, Pair))
    assert all(step.units == step.writes.rows for step in convolutions if step.shares_rows)
