"""A checkpoint as C: source that any firmware can take, and a library made of it."""

from importlib import resources
from pathlib import Path

from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler import translate
from mobilenets.compiler.targets import CodePath, Target
from mobilenets.compiler.toolchain import (
    FLAGS,
    OF_GCC,
    code_paths,
    compile_library,
    find_compiler,
    multiplies_bf16,
    write_sources,
)
from mobilenets.files import write_text
from mobilenets.progress import Progress

SOURCES = "c"
"""The folder of a bundle that holds the source."""
WASM_PROGRAM = "model.mjs"
"""Runs `model.wasm` in a browser or in Node."""


def write_c(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    target: str,
    precision: str,
    threads: bool,
    progress: Progress,
) -> None:
    """The source of `checkpoint` into `folder`/c, and the library of it for `target` into `folder`.

    Without `threads`, there is no code for any. bf16 is that of weights alone, and `progress` is told so,
    where the target does not multiply it. Raises `UnknownName` for a target or a precision that there is
    none of, `EnvironmentFault` without a C compiler.
    """
    compiler = find_compiler(target)
    fp32_maps = not multiplies_bf16(compiler)
    program = translate(checkpoint, precision=precision, fp32_maps=fp32_maps)
    paths = code_paths(compiler, program.precision)
    if precision == "bf16" and fp32_maps:
        here = "this processor" if target == "native" else target
        progress.say(
            f"Weights are bf16, what is computed is fp32: {here} has no faster products of bf16 (AMX, or "
            "AVX512-BF16 on AMD's processors, has)."
        )
    sources = folder / SOURCES
    threads = threads and compiler.target.threads
    write_sources(program, paths, sources, threads=threads)
    write_text(sources / "CMakeLists.txt", _cmake(paths, compiler.target, threads))
    _copy("c/main.c", sources)
    library = compile_library(sources, paths, compiler, progress=progress)
    library.rename(folder / library.name)
    if target == "wasm32":
        _copy(f"c/{WASM_PROGRAM}", folder)


def parts(target: str) -> tuple[tuple[str, str], ...]:
    """What `write_c` writes beside the library: name, what it is."""
    source = (f"{SOURCES}/", "the same as C source, which needs no more than libc; see its `model.h`")
    program = (WASM_PROGRAM, "runs it in a browser or in Node; its first lines say how")
    return (source, program) if target == "wasm32" else (source,)


def _copy(name: str, folder: Path) -> None:
    source = resources.files("mobilenets.compiler").joinpath(name)
    write_text(folder / source.name, source.read_text(encoding="utf-8"))


def _cmake(paths: tuple[CodePath, ...], target: Target, threads: bool) -> str:
    networks = "\n".join(
        f"add_library(network_{path.name} OBJECT network.c)\n"
        f"target_compile_options(network_{path.name} PRIVATE {' '.join(path.flags)})\n"
        f"target_compile_definitions(network_{path.name} PRIVATE NETWORK=network_{path.name})"
        for path in paths
    )
    return _CMAKE.format(
        flags=" ".join((*FLAGS[1:], *target.flags)),
        of_gcc=";".join(OF_GCC),
        networks=networks,
        kind="SHARED" if target.shared else "STATIC",
        objects=" ".join(f"$<TARGET_OBJECTS:network_{path.name}>" for path in paths),
        find=_FIND_THREADS if threads else "",
        link=_LINK_THREADS if threads else "",
        program=_PROGRAM if target.shared else "",
    )


_CMAKE = """\
cmake_minimum_required(VERSION 3.13)
project(model C)
{find}
set(CMAKE_C_STANDARD 11)
add_compile_options({flags} "$<$<C_COMPILER_ID:GNU>:{of_gcc}>")

# network.c is compiled once for each kind of processor; model.c chooses when it is opened.
{networks}

add_library(model {kind} model.c labels.c weights.c {objects})
target_compile_options(model PRIVATE -Wa,-I${{CMAKE_CURRENT_SOURCE_DIR}})
target_include_directories(model PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
{link}{program}"""
_FIND_THREADS = "find_package(Threads REQUIRED)\n"
_LINK_THREADS = "target_link_libraries(model PRIVATE Threads::Threads)\n"
_PROGRAM = "\nadd_executable(main main.c)\ntarget_link_libraries(main model)\n"
