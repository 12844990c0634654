"""The cold start of the emitted C program: `main.c` beside a compiled library, from start to answer."""

import subprocess
import tempfile
import time
from importlib import resources
from pathlib import Path

from mobilenets.benchmark.samples import Interval, median_interval
from mobilenets.benchmark.worker import pictures
from mobilenets.compiler.toolchain import FLAGS, find_compiler, run_compiler
from mobilenets.files import write_bytes, write_text
from mobilenets.spec import Spec

_STARTS = 21
_MAGIC = {1: "P5", 3: "P6"}
"""Of the pictures that `main.c` reads, by channels."""


def program_cold_start_ms(spec: Spec, library: Path, header: Path) -> Interval | None:
    """Milliseconds from the process's start to its answer, read from a pipe; `header` is its `model.h`.

    `None` for a network that takes other pictures than `main.c` reads. Raises `EnvironmentFault`
    where there is no C compiler.
    """
    if spec.channels not in _MAGIC:
        return None
    compiler = find_compiler()
    main = resources.files("mobilenets.compiler").joinpath("c", "main.c").read_text(encoding="utf-8")
    side = spec.resolution
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "main.c", main)
        write_text(folder / "model.h", header.read_text(encoding="utf-8"))
        picture = f"{_MAGIC[spec.channels]} {side} {side} 255\n".encode() + pictures(spec, 1).tobytes()
        write_bytes(folder / "picture.ppm", picture)
        place = library.resolve()
        link = (str(place), f"-Wl,-rpath,{place.parent}")
        run_compiler((*compiler.command, *FLAGS, "main.c", *link, "-o", "main"), folder)
        command = [str(folder / "main"), str(folder / "picture.ppm")]
        return median_interval([_to_answer_ms(command) for _ in range(_STARTS)])


def _to_answer_ms(command: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603  # ours, no shell
        assert process.stdout is not None
        answer = process.stdout.readline()
        end = time.perf_counter()
    if process.returncode or not answer:
        raise subprocess.CalledProcessError(process.returncode, command)
    return 1e3 * (end - start)
