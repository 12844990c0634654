"""The family's speed in every engine that is installed here, appended to benchmarks/results.jsonl.

    python benchmarks/networks.py [--only table|batch|growth] [--rounds 10]

`table`: six networks at 224 px, batch 1, with one thread and with two. `batch`: the same with 32
pictures on one thread. `growth`: V2 over the width multiplier α, the resolution multiplier ρ and the
batch, in our engine alone. Every line has machine, versions, date and how quiet the machine was;
`python benchmarks/render.py` makes BENCHMARKS.md of all lines. Stop and repeat at will: a line that is
there is kept, and the newest of each kind counts.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RESULTS = Path(__file__).with_name("results.jsonl")
NETWORKS = (
    "mobilenet_v1_100",
    "mobilenet_v2_100",
    "mobilenet_v3_large_100",
    "mobilenet_v3_small_100",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
)
GROWING = "mobilenet_v2"
WIDTHS = ("035", "050", "075", "100", "130", "140")
RESOLUTIONS = ("96", "128", "160", "192")
BATCHES = ("2", "4", "8", "16", "32")
"""The largest resolution and the smallest batch are those of the widths."""

Words = list[str]


def table() -> Iterator[Words]:
    for name in NETWORKS:
        for threads in ("1", "2"):
            yield [name, "--resolution", "224", "--threads", threads]


def batch() -> Iterator[Words]:
    for name in NETWORKS:
        yield [name, "--resolution", "224", "--batch", "32"]


def growth() -> Iterator[Words]:
    ours = ["--engines", "compiled"]
    for width in WIDTHS:
        yield [f"{GROWING}_{width}", "--resolution", "224", *ours]
    for resolution in RESOLUTIONS:
        yield [f"{GROWING}_100", "--resolution", resolution, *ours]
    for pictures in BATCHES:
        yield [f"{GROWING}_100", "--resolution", "224", "--batch", pictures, *ours]


PARTS = {"table": table, "batch": batch, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--rounds", default="10")
    options = parser.parse_args()
    for part in [options.only] if options.only else PARTS:
        for words in PARTS[part]():
            command = ["bench", *words, "--rounds", options.rounds, "--json", str(RESULTS)]
            print(f"\n$ mobilenets {' '.join(command)}", flush=True)
            subprocess.run([sys.executable, "-m", "mobilenets", *command], check=True)


if __name__ == "__main__":
    main()
