"""A checkpoint as C: source that any firmware can take, and a library made of it."""

from importlib import resources
from pathlib import Path

from mobilenets.checkpoint import Checkpoint
from mobilenets.compiler import translate
from mobilenets.compiler.toolchain import (
    FLAGS,
    LIBRARY,
    CodePath,
    code_paths,
    compile_library,
    find_compiler,
    write_sources,
)
from mobilenets.files import write_text
from mobilenets.progress import Progress

SOURCES = "c"
"""The folder of a bundle that holds the source."""


def write_c(checkpoint: Checkpoint, folder: Path, target: str, progress: Progress) -> None:
    """The source of `checkpoint` into `folder`/c, and the library of it for `target` into `folder`.

    Raises `UnknownName` for a target that there is none of, `EnvironmentFault` without a C compiler.
    """
    compiler = find_compiler()
    paths = code_paths(target, compiler)
    sources = folder / SOURCES
    write_sources(translate(checkpoint), paths, sources)
    write_text(sources / "CMakeLists.txt", _cmake(paths))
    example = resources.files("mobilenets.compiler").joinpath("c", "main.c")
    write_text(sources / "main.c", example.read_text(encoding="utf-8"))
    compile_library(sources, paths, compiler, progress=progress).rename(folder / LIBRARY)


def _cmake(paths: tuple[CodePath, ...]) -> str:
    networks = "\n".join(
        f"add_library(network_{path.name} OBJECT network.c)\n"
        f"target_compile_options(network_{path.name} PRIVATE {' '.join(path.flags)})\n"
        f"target_compile_definitions(network_{path.name} PRIVATE NETWORK=network_{path.name})"
        for path in paths
    )
    objects = " ".join(f"$<TARGET_OBJECTS:network_{path.name}>" for path in paths)
    return _CMAKE.format(flags=" ".join(FLAGS[1:]), networks=networks, objects=objects)


_CMAKE = """\
cmake_minimum_required(VERSION 3.13)
project(model C)
find_package(Threads REQUIRED)

set(CMAKE_C_STANDARD 11)
add_compile_options({flags})

# network.c is compiled once for each kind of processor; model.c chooses when it is opened.
{networks}

add_library(model SHARED model.c labels.c weights.c {objects})
target_compile_options(model PRIVATE -Wa,-I${{CMAKE_CURRENT_SOURCE_DIR}})
target_include_directories(model PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
target_link_libraries(model PRIVATE m Threads::Threads)

add_executable(main main.c)
target_link_libraries(main model)
"""
