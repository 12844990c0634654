"""What the processor can do, measured by a small C program with the compiler that makes our libraries."""

import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from mobilenets.compiler.toolchain import FLAGS, code_paths, find_compiler, run_compiler
from mobilenets.errors import EnvironmentFault
from mobilenets.files import write_text

_SOURCE, _PROGRAM = "peaks.c", "peaks"


class Peaks(NamedTuple):
    """Of some threads together."""

    gmacs: float
    """Multiply-adds of fp32, in 10⁹ a second."""
    near_gbytes: float
    """Bytes read from a cache close to the core, in 10⁹ a second."""
    far_gbytes: float
    """Bytes read from memory, in 10⁹ a second."""


def measure_peaks(threads: int) -> Peaks:
    """Compile and run `c/peaks.c`; `EnvironmentFault` where there is no C compiler or it cannot be done."""
    compiler = find_compiler()
    source = resources.files("mobilenets.benchmark").joinpath("c", _SOURCE).read_text(encoding="utf-8")
    flags = (*FLAGS, *code_paths(compiler)[0].flags)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / _SOURCE, source)
        run_compiler((*compiler.command, *flags, _SOURCE, "-pthread", "-o", _PROGRAM), folder)
        done = subprocess.run(  # noqa: S603  # our own program, no shell
            [str(folder / _PROGRAM), str(threads)], capture_output=True, encoding="ascii", check=False
        )
    try:
        gmacs, near, far = (float(line) for line in done.stdout.split())
    except ValueError as error:
        raise EnvironmentFault(
            f"the program that measures the processor's peaks failed with code {done.returncode}."
        ) from error
    return Peaks(gmacs, near, far)
