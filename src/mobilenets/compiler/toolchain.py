"""The C compiler: which one there is for a target, what it is told, and libraries kept by content.

Compilers are called with lists of arguments, never through a shell.
"""

import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets.compiler.emission import Program
from mobilenets.compiler.targets import (
    AVX2,
    AVX512,
    LIBRARY,
    NEON,
    NEON_A9,
    NEON_FMA,
    SCALAR,
    SSE2,
    CodePath,
    Target,
    find_target,
)
from mobilenets.errors import EnvironmentFault
from mobilenets.files import caches, replacing_folder, write_bytes, write_text
from mobilenets.progress import SILENT, Progress
from mobilenets.threads import available_cores

WEIGHTS_FILE = "weights.bin"
FLAGS = ("-std=gnu11", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden")
"""Without `-ffp-contract=fast`, gcc splits every fused multiply-add into two instructions."""
OF_GCC = ("-fno-gcse",)
"""Else it keeps addresses of several tiles at a time, and weights do not fit the registers (LOG.md)."""
WARNINGS = ("-Wall", "-Wextra")


_V3 = frozenset(f"__{part}__" for part in ("AVX2", "BMI", "BMI2", "F16C", "FMA", "LZCNT", "MOVBE"))
_NATIVE = (
    (_V3.union(f"__AVX512{part}__" for part in ("F", "CD", "BW", "DQ", "VL")), (AVX512,)),
    (_V3, (AVX2,)),
    (frozenset({"__SSE2__"}), (SSE2,)),
    (frozenset({"__ARM_NEON", "__aarch64__"}), (NEON,)),
    (frozenset({"__ARM_NEON", "__arm__", "__linux__"}), (NEON_FMA, NEON_A9)),
)
"""By the macros that the compiler defines for this machine. A path has the instructions that it asks the
processor for and no more: a library that is taken to another machine says no there, and does not crash.
"""


@dataclass(frozen=True)
class Compiler:
    """A C compiler that answers."""

    command: tuple[str, ...]
    version: str
    """The first line that it says of itself."""
    target: Target
    """What it compiles for."""

    def told(self, flags: Sequence[str]) -> tuple[str, ...]:
        """`flags` as this compiler takes them: zig has one flag for the processor, and names of its own.

        clang, which zig is as well, has neither the faults that `OF_GCC` and `-Wa,` mend, nor those flags.
        """
        kept = [
            flag for flag in flags if not (self._is_clang and (flag in OF_GCC or flag.startswith("-Wa,")))
        ]
        if "ziglang" not in self.command:
            return tuple(kept)
        kept = [
            flag
            for flag in kept
            if not flag.startswith(("-mfpu=", "-mfloat-abi=", "-mthumb", "-mtune=", "-static"))
        ]
        units = "".join(_UNITS_OF_ZIG.get(flag, "") for flag in flags)
        return tuple(re.sub("-m(arch|cpu)=.*", lambda flag: _for_zig(flag) + units, flag) for flag in kept)

    @property
    def _is_clang(self) -> bool:
        return "clang" in self.version or "ziglang" in self.command

    def macros(self, flags: Sequence[str]) -> frozenset[str]:
        """What it defines with `flags`; nothing where it does not know them."""
        done = _asked((*self.command, *self.told(flags), "-dM", "-E", "-x", "c", os.devnull))
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        return frozenset(line.split()[1] for line in lines if line.startswith("#define "))


_UNITS_OF_ZIG = {
    "-mfpu=fpv4-sp-d16": "+vfp4d16sp",
    "-mfpu=fpv5-sp-d16": "+fp_armv8d16sp",
    "-mfpu=auto": "+mve_fp",
}
"""A Cortex-M's floating-point unit, without which zig calls a function for every product."""


def _for_zig(flag: re.Match[str]) -> str:
    return f"-mcpu={flag[0].partition('=')[2].replace('-', '_')}"


def find_compiler(target: str = "native", environment: Mapping[str, str] = os.environ) -> Compiler:
    """`$CC`, or `cc`, `gcc`, `clang`; zig from PyPI; a cross compiler: the first that compiles for `target`.

    Raises `UnknownName` for a target that there is none of, and `EnvironmentFault` where no compiler is for
    it. A `$CC` that is for another machine is passed over; it is an error where it does not run, and where
    the target is this machine.
    """
    wanted, named = find_target(target), environment.get("CC")
    commands: list[tuple[str, ...]] = [_words(named)] if named else [("cc",), ("gcc",), ("clang",)]
    if named and _answering(commands[0], wanted) is None:
        raise EnvironmentFault(f"the C compiler {named!r}, which $CC names, does not run.", remedy=_INSTALL)
    if importlib.util.find_spec("ziglang"):
        commands.append((sys.executable, "-m", "ziglang", "cc", *wanted.zig))
    for command in (*commands, wanted.cross):
        compiler = _answering(command, wanted)
        if compiler and wanted.macros <= compiler.macros(wanted.flags):
            return compiler
    if named and wanted.macros and wanted.machine is None:
        raise EnvironmentFault(
            f"the C compiler {named!r}, which $CC names, is for another machine than this one.",
            remedy=_INSTALL,
        )
    here = "here: neither cc, gcc, clang nor zig" if wanted.machine is None else f"for {target} here"
    raise EnvironmentFault(f"there is no C compiler {here}.", remedy=_INSTALL)


_INSTALL = (
    "Install one with: pip install 'mobilenets[compile]' (zig, for every target), or, for this machine, "
    "apt install gcc (Debian, Ubuntu) or xcode-select --install (macOS)."
)


def _words(command: str) -> tuple[str, ...]:
    """Those of `$CC`. A path in it becomes whole: compilers are called in other folders."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote without its end
        return ()
    if words and os.path.dirname(words[0]):
        words[0] = os.path.abspath(words[0])
    return tuple(words)


def _answering(command: tuple[str, ...], target: Target) -> Compiler | None:
    if not command or shutil.which(command[0]) is None:
        return None
    done = _asked((*command, "--version"))
    if done.returncode != 0 or not done.stdout.strip():
        return None
    return Compiler(command, done.stdout.strip().splitlines()[0], target)


def code_paths(compiler: Compiler, precision: str = "fp32") -> tuple[CodePath, ...]:
    """The paths of the compiler's target for maps of `precision`, the best first."""
    if precision == "bf16":
        return compiler.target.paths_bf16
    if compiler.target.paths:
        return compiler.target.paths
    for flag in ("-march=native", "-mcpu=native"):
        defined = compiler.macros([flag])
        for macros, paths in _NATIVE:
            if macros <= defined:
                return tuple(replace(path, flags=(*path.flags, *_tuned(path))) for path in paths)
    return (SCALAR,)


def _tuned(path: CodePath) -> tuple[str, ...]:
    """The order of instructions that suits this processor, of those that the path allows."""
    return ("-mtune=native",) if any(flag.startswith("-march=") for flag in path.flags) else ()


def multiplies_bf16(compiler: Compiler) -> bool:
    """Whether a library for the compiler's target multiplies bf16, instead of having its weights alone in it.

    For `native`, it does where that is faster than fp32 on this processor: with AMX, and with AVX512-BF16
    but on Intel's processors, where such products take twice the time of fp32's (LOG.md).
    """
    target = compiler.target
    if target.paths or not target.paths_bf16:
        return bool(target.paths_bf16)
    macros = compiler.macros(["-march=native"])
    has_matrices = sys.platform == "linux" and not macros.isdisjoint(("__AMX_BF16__", "__AMXBF16__"))
    return has_matrices or ("__AVX512BF16__" in macros and "GenuineIntel" not in instructions())


def paths_header(paths: Sequence[CodePath], *, threads: bool = True) -> str:
    """`paths.h`: which compilations of the network there are, how to choose one, and whether with threads."""
    tries = " \\\n".join(f"    TRY({path.name}, {path.condition})" for path in paths)
    declared = "\n".join(f"extern const Network network_{path.name};" for path in paths)
    single = "" if threads else "#define MODEL_SINGLE_THREADED   /* no code for threads */\n\n"
    return (
        "/* The compilations of network.c, the best first, and which of them this processor can run. */\n"
        f'#ifndef PATHS_H\n#define PATHS_H\n\n#include "network.h"\n#include "processor.h"\n\n{single}'
        f"#define MODEL_PATHS(TRY) \\\n{tries}\n\n{declared}\n\n#endif\n"
    )


def write_sources(program: Program, paths: Sequence[CodePath], folder: Path, *, threads: bool = True) -> None:
    """All of the program's files into `folder`."""
    for name, text in program.files.items():
        write_text(folder / name, text)
    write_text(folder / "paths.h", paths_header(paths, threads=threads))
    write_bytes(folder / WEIGHTS_FILE, program.weights.astype("<f4").tobytes())


def compile_library(
    folder: Path,
    paths: Sequence[CodePath],
    compiler: Compiler,
    *,
    flags: Sequence[str] = (),
    interface: str = "model",
    progress: Progress = SILENT,
) -> Path:
    """The library of the sources in `folder`, beside them; objects are compiled side by side.

    `interface` names the C file through which it is called. Raises `EnvironmentFault` with the
    compiler's first error.
    """
    target = compiler.target
    units = [(f"network_{path.name}", path.flags, f"-DNETWORK=network_{path.name}") for path in paths]
    units += [(name, (), "") for name in (interface, "labels", "weights")]

    def compile_one(unit: tuple[str, tuple[str, ...], str]) -> str:
        name, own, define = unit
        told = compiler.told((*FLAGS, *OF_GCC, *target.flags, *WARNINGS, *own, *flags))
        source, output = f"{name.partition('_')[0]}.c", f"{name}.unit.o"
        run_compiler((*compiler.command, *told, *filter(None, [define]), "-c", source, "-o", output), folder)
        return output

    with ThreadPoolExecutor(min(available_cores(), len(units))) as pool:
        objects = list(progress.track(pool.map(compile_one, units), len(units), "compiling"))
    told = compiler.told((*target.flags, *target.link, *flags))
    run_compiler((*compiler.command, *told, *objects, "-o", target.product), folder)
    for name in objects:
        (folder / name).unlink()
    return folder / target.product


def cached_library(program: Program, *, interface: str = "model", progress: Progress = SILENT) -> Path:
    """The library of `program` for here, compiled now or taken from the cache by all that made it.

    `interface` is as in `compile_library`.
    """
    compiler = find_compiler()
    paths = code_paths(compiler, program.precision)
    parts = {
        "files": program.files,
        "paths": paths_header(paths),
        "flags": [FLAGS, OF_GCC, [path.flags for path in paths]],
        "interface": interface,
        "compiler": compiler.version,
        "machine": instructions(),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    key.update(program.weights.astype("<f4").tobytes())
    kept = caches() / "compiled" / key.hexdigest()[:32]
    if not (kept / LIBRARY).is_file():
        with replacing_folder(kept) as building:
            write_sources(program, paths, building)
            compile_library(building, paths, compiler, interface=interface, progress=progress)
    return kept / LIBRARY


_DECIDES = ("flags", "Features", "model name", "vendor_id")
"""Of /proc/cpuinfo: how lines begin that say what a processor can do."""


def instructions() -> str:
    """What the choice of a path and `-mtune=native` depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.system()} {platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(_DECIDES)}))


def _asked(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a compiler says of itself, in a folder of its own: zig leaves an empty a.o there, for macOS."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(command, Path(folder))


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # a list of arguments, no shell
        command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def run_compiler(command: Sequence[str], folder: Path) -> None:
    """Run `command` in `folder`; `EnvironmentFault` with the compiler's first error where it fails."""
    done = _run(command, folder)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise EnvironmentFault(
            f"the C compiler failed ({next(iter(lines), f'exit code {done.returncode}')}).",
            remedy=f"It was called as: {shlex.join(command)}",
        )
