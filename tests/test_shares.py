"""How threads share a step, and the weights that they fetch: `c/maps.h` by itself, called from here."""

import ctypes
import subprocess
from collections.abc import Iterator
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
/* Where the lines lie that `tiles` fetch, `each` of them. */
int fetched(const int *starts, int first, int last, int part, int parts, int tiles, int each, int *found) {
    static const float weights[1];
    Later later = later_of(weights, starts, first, last, part, parts);
    int n = 0;
    for (int i = 0; i < tiles; i++) {
        const Ahead ahead = take_lines(&later, each, 4);
        for (int line = 0; line < ahead.left; line++)
            found[n++] = (int)(((uintptr_t)ahead.next - (uintptr_t)weights) / sizeof(float)) + line * LINE;
    }
    return n;
}
"""
PARTS = (1, 2, 3, 4, 7, 32)
PANELS = [
    Widths(4, 16, 0, 5),
    Widths(3, 16, 8, 6),
    Widths(1, 32, 24, 0),
    Widths(0, 16, 8, 7),
    Widths(1, 16, 0, 4),
]


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
@pytest.mark.parametrize("panels", PANELS)
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
@pytest.mark.parametrize("panels", PANELS)
def test_every_row_of_every_panel_is_computed_once(c, panels, rows, tall, parts):
    found = (ctypes.c_int * 3000)()
    times = np.zeros((len(widths_of(panels)), rows), int)
    for part in range(parts):
        share = [c.before(rows, *panels, each, parts) for each in (part, part + 1)]
        for i in range(c.pieces(rows, tall, *share, found)):
            panel, first, last = found[3 * i : 3 * i + 3]
            assert first % tall == 0 or first == rows
            assert last % tall == 0 or last == rows
            times[panel, first:last] += 1
    assert (times == 1).all()


def fetching(plan) -> Iterator[tuple[int, int, int]]:
    """Of each convolution that fetches: from where, to where, in how many tiles."""
    found, end = fetches(plan), begins(plan)[-1]
    for step in plan.kernels:
        if isinstance(step, Convolve) and id(step) in found:
            first, lines = found[id(step)]
            last = min(end, first + lines * step.panels * ALIGNMENT)
            yield first, last, step.panels * step.writes.rows


NAMES = ["mobilenet_v1_100", "mobilenet_v3_large_100", "mobilenet_v3_small_100"]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_threads_fetch_their_own_part_of_every_steps_weights(c, name, parts):
    """And together nearly all: a tile that meets the end of a part fetches less."""
    plan = plan_of(zoo.build(name))
    starts = begins(plan)
    array, room = (ctypes.c_int * len(starts))(*starts), (ctypes.c_int * 200_000)()
    own = fetched = asked = 0
    seen = np.zeros(starts[-1] + 10_000, bool)
    for first, last, tiles in fetching(plan):
        index = int(np.searchsorted(starts, first, side="right")) - 1
        there = ctypes.cast(ctypes.byref(array, 4 * index), ctypes.POINTER(ctypes.c_int))
        each = -(-(last - first) // (ALIGNMENT * tiles))
        for part in range(parts):
            mine = -(-tiles // parts)
            n = c.fetched(there, first, last, part, parts, mine, each, room)
            at = np.array(room[:n])
            assert n == 0 or (at.min() >= starts[index] and at.max() < starts[-1] + ALIGNMENT * each)
            begin = np.searchsorted(starts, at, side="right") - 1
            before = np.array(starts)[np.minimum(begin, len(starts) - 2)]
            size = np.array(starts)[np.minimum(begin + 1, len(starts) - 1)] - before
            inside = (at >= before + size * part // parts) & (at < before + size * (part + 1) // parts)
            own, fetched = own + int(inside.sum()), fetched + n
            for i in range(ALIGNMENT):
                seen[at + i] = True
        asked += last - first
    assert own == fetched
    assert seen[: starts[-1]].sum() >= (0.94 if parts <= 4 else 0.65) * asked


def test_one_thread_fetches_in_order(c):
    plan = plan_of(zoo.build("mobilenet_v1_100"))
    array, room = (ctypes.c_int * 3)(0, 100, 5000), (ctypes.c_int * 1000)()
    n = c.fetched(array, 32, 4000, 0, 1, 50, 7, room)
    assert room[:n] == list(range(32, 32 + n * ALIGNMENT, ALIGNMENT))
    assert 4000 <= 32 + n * ALIGNMENT < 4000 + 7 * ALIGNMENT
    assert len(list(fetching(plan))) > 5


def test_a_plan_has_all_kinds_of_shares():
    """What `test_networks_on_several_threads_give_the_same_bits` computes."""
    steps = plan_of(zoo.build("mobilenet_v3_large_100")).steps
    convolutions = [step for step in steps if isinstance(step, Convolve) and step.panels_first]
    assert {step.shares_rows for step in convolutions} == {True, False}
    assert any(step.widths for step in convolutions if not step.shares_rows)
    assert any(step.widths and step.widths.half for step in steps if isinstance(step, Pair))
    assert all(step.units == step.writes.rows for step in convolutions if step.shares_rows)
