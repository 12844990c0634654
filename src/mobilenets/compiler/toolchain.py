"""The C compiler: which one there is, what it is told for each target, and libraries kept by content.

Compilers are called with lists of arguments, never through a shell.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mobilenets.compiler.emission import Program
from mobilenets.errors import EnvironmentFault, UnknownName
from mobilenets.files import caches, replacing_folder, write_bytes, write_text
from mobilenets.progress import SILENT, Progress
from mobilenets.threads import available_cores

WEIGHTS_FILE = "weights.bin"
LIBRARY = "model.dll" if sys.platform == "win32" else "libmodel.so"
"""The shared library's name in a bundle and in the cache."""
FLAGS = ("-std=gnu11", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-fvisibility=hidden")
"""Without `-ffp-contract=fast`, gcc splits every fused multiply-add into two instructions."""
WARNINGS = ("-Wall", "-Wextra")


@dataclass(frozen=True)
class CodePath:
    """One compilation of the network, for one kind of vector."""

    name: str
    flags: tuple[str, ...]
    condition: str
    """C that says whether this processor can run it."""


def _supports(*features: str) -> str:
    return " && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features)


AVX512 = CodePath(
    "avx512",
    ("-march=x86-64-v4",),
    _supports("avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma", "bmi2"),
)
AVX2 = CodePath("avx2", ("-march=x86-64-v3",), _supports("avx2", "fma", "bmi2"))
SSE2 = CodePath("sse2", ("-march=x86-64",), "1")
TARGETS: dict[str, tuple[CodePath, ...]] = {
    "native": (),
    "x86-64": (AVX512, AVX2, SSE2),
    "x86-64-v3": (AVX2,),
    "x86-64-v4": (AVX512,),
    "scalar": (CodePath("scalar", ("-DVECTOR=1",), "1"),),
}
"""What a library is compiled for: its paths, the best first. `native` is what the compiler finds here."""

_NATIVE = {
    "__AVX512F__": CodePath("avx512", ("-march=native",), AVX512.condition),
    "__AVX2__": CodePath("avx2", ("-march=native",), AVX2.condition),
    "__SSE2__": CodePath("sse2", ("-march=native",), "1"),
    "__ARM_NEON": CodePath("neon", ("-mcpu=native",), "1"),
}
"""By the macro that the compiler defines for this machine."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler that answers."""

    command: tuple[str, ...]
    version: str
    """The first line that it says of itself."""


def find_compiler(environment: Mapping[str, str] = os.environ) -> Compiler:
    """`$CC`, else `cc`, `gcc` or `clang`; `EnvironmentFault` where none works."""
    named = environment.get("CC")
    try:
        candidates = [shlex.split(named)] if named else [["cc"], ["gcc"], ["clang"]]
    except ValueError:  # a quote without its end
        candidates = []
    for command in candidates:
        if not command or shutil.which(command[0]) is None:
            continue
        done = _run((*command, "--version"))
        if done.returncode == 0 and done.stdout.strip():
            return Compiler(tuple(command), done.stdout.strip().splitlines()[0])
    raise EnvironmentFault(
        f"the C compiler {named!r}, which $CC names, does not run."
        if named
        else "there is no C compiler here: neither cc, gcc nor clang.",
        remedy="Install one with: apt install gcc (Debian, Ubuntu) or xcode-select --install (macOS).",
    )


def code_paths(target: str, compiler: Compiler) -> tuple[CodePath, ...]:
    """The paths of `target`; `UnknownName` for another name."""
    if target not in TARGETS:
        raise UnknownName("target", target, TARGETS)
    if target != "native":
        return TARGETS[target]
    for flag in ("-march=native", "-mcpu=native"):
        done = _run((*compiler.command, flag, "-dM", "-E", "-x", "c", os.devnull))
        defined = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("#define ")}
        for macro, path in _NATIVE.items():
            if done.returncode == 0 and macro in defined and path.flags == (flag,):
                return (path,)
    return TARGETS["scalar"]


def paths_header(paths: Sequence[CodePath]) -> str:
    """`paths.h`: which compilations of the network there are, and how to choose one."""
    tries = " \\\n".join(f"    TRY({path.name}, {path.condition})" for path in paths)
    declared = "\n".join(f"extern const Network network_{path.name};" for path in paths)
    return (
        "/* The compilations of network.c, the best first, and which of them this processor can run. */\n"
        '#ifndef PATHS_H\n#define PATHS_H\n\n#include "network.h"\n\n'
        f"#define MODEL_PATHS(TRY) \\\n{tries}\n\n{declared}\n\n#endif\n"
    )


def write_sources(program: Program, paths: Sequence[CodePath], folder: Path) -> None:
    """All of the program's files into `folder`."""
    for name, text in program.files.items():
        write_text(folder / name, text)
    write_text(folder / "paths.h", paths_header(paths))
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
    """The shared library of the sources in `folder`, beside them; objects are compiled side by side.

    `interface` names the C file through which it is called. Raises `EnvironmentFault` with the
    compiler's first error.
    """
    units = [
        (f"network_{path.name}.o", "network.c", (*path.flags, f"-DNETWORK=network_{path.name}"))
        for path in paths
    ]
    units += [(f"{name}.o", f"{name}.c", ()) for name in (interface, "labels", "weights")]

    def compile_one(unit: tuple[str, str, tuple[str, ...]]) -> None:
        output, source, own = unit
        run_compiler((*compiler.command, *FLAGS, *WARNINGS, *own, *flags, "-c", source, "-o", output), folder)

    with ThreadPoolExecutor(min(available_cores(), len(units))) as pool:
        for _ in progress.track(pool.map(compile_one, units), len(units), "compiling"):
            pass
    objects = [output for output, _, _ in units]
    run_compiler((*compiler.command, "-shared", *flags, *objects, "-lm", "-pthread", "-o", LIBRARY), folder)
    for name in objects:
        (folder / name).unlink()
    return folder / LIBRARY


def cached_library(
    program: Program, *, target: str = "native", interface: str = "model", progress: Progress = SILENT
) -> Path:
    """The library of `program`, compiled now or taken from the cache; its key is all that made it.

    `interface` is as in `compile_library`.
    """
    compiler = find_compiler()
    paths = code_paths(target, compiler)
    parts = {
        "files": program.files,
        "paths": paths_header(paths),
        "flags": [FLAGS, [path.flags for path in paths]],
        "interface": interface,
        "compiler": compiler.version,
        "machine": _machine() if target == "native" else "",
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    key.update(program.weights.astype("<f4").tobytes())
    kept = caches() / "compiled" / key.hexdigest()[:32]
    if not (kept / LIBRARY).is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(kept) as building:
            write_sources(program, paths, building)
            compile_library(building, paths, compiler, interface=interface, progress=progress)
    return kept / LIBRARY


def _machine() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
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
