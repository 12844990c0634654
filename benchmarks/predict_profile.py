"""Where the time of `mobilenets predict MODEL FOLDER` goes: start, decoding, preparing, network, the rest.

    python benchmarks/predict_profile.py MODEL FOLDER [--pictures 1000] [--rounds 5]

The parts are timed one after the other on the same pictures, in one thread; then the whole `predict`
is run as users run it, with decoding in threads beside the network. Rounds are interleaved; a figure is
the median with the smallest and largest. Nothing is written.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mobilenets.machine import describe
from mobilenets.pictures import load
from mobilenets.prediction import expand, predict
from mobilenets.preprocessing import prepare
from mobilenets.runtime import Session, open_session

BATCH = 16


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parts(session: Session, paths: list[Path]) -> dict[str, Callable[[], object]]:
    """What is timed: label → work. `decode` etc. are alone in their thread; `predict` is everything."""
    preprocessing, resolution = session.manifest.preprocessing, session.manifest.spec.resolution
    images = [load(path) for path in paths]
    pixels = np.stack([prepare(image, preprocessing, resolution) for image in images])

    def network() -> None:
        for first in range(0, len(pixels), BATCH):
            session.run(pixels[first : first + BATCH])

    return {
        "read and decode": lambda: [load(path) for path in paths],
        "resize and crop": lambda: [prepare(image, preprocessing, resolution) for image in images],
        "network": network,
        "predict, all of it": lambda: predict(session, paths, batch_size=BATCH),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    paths = list(expand([options.folder]))[: options.pictures]
    session = open_session(options.model)
    work = parts(session, paths)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, function in work.items():
            times[name].append(seconds(function))
    start = seconds(
        lambda: subprocess.run(
            [sys.executable, "-m", "mobilenets", "predict", options.model, str(paths[0]), "--json"],
            check=True,
            capture_output=True,
        )
    )
    machine = describe()
    print(
        f"{machine['processor']}, {machine['cores']} cores, load {os.getloadavg()[0]:.1f} · {session.engine}"
    )
    spec = session.manifest.spec
    print(f"{spec.name} at {spec.resolution} px, {len(paths)} pictures, seconds:\n")
    for name, values in times.items():
        print(f"{name:20s} {statistics.median(values):7.2f}  ({min(values):.2f} – {max(values):.2f})")
    medians = {name: statistics.median(values) for name, values in times.items()}
    whole = medians.pop("predict, all of it")
    print(f"{'sum of the parts':20s} {sum(medians.values()):7.2f}")
    print(f"\npredict takes {whole / max(medians.values()):.2f} × its longest part")
    print(f"one picture as a whole command, Python's start included: {start:.2f} s")


if __name__ == "__main__":
    main()
