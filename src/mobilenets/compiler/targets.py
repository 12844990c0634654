"""What a library is compiled for: instructions, systems, and which compiler can do it."""

import platform
import sys
from dataclasses import dataclass

from mobilenets.errors import UnknownName

LIBRARY = {"win32": "model.dll", "darwin": "libmodel.dylib"}.get(sys.platform, "libmodel.so")
"""This system's shared library in a bundle and in the cache."""


@dataclass(frozen=True)
class CodePath:
    """One compilation of the network, for one kind of vector."""

    name: str
    flags: tuple[str, ...]
    condition: str = "1"
    """C that says whether this processor can run it, by `c/processor.h`."""


_WINDOWS_FLAGS = ("-Wa,-muse-unaligned-vector-move",)
"""gcc takes the stack for aligned where Windows does not align it (its bug 54412)."""
_WINDOWS_LINK = ("-shared", "-static", "-pthread")
"""No other library shall be needed, as that of mingw's threads would be."""
_FLAGS = _WINDOWS_FLAGS if sys.platform == "win32" else ("-fPIC",)
_LINK = _WINDOWS_LINK if sys.platform == "win32" else ("-shared", "-pthread")


@dataclass(frozen=True)
class Target:
    """A kind of machine, and how C becomes a library for it."""

    paths: tuple[CodePath, ...]
    """The best first; without any, what the compiler finds here."""
    zig: tuple[str, ...] = ()
    """What zig is told beside; `-s` leaves out what a debugger wants, which is most of a small library."""
    cross: tuple[str, ...] = ()
    """The command of another compiler for it, which many systems offer."""
    macros: frozenset[str] = frozenset()
    """What every compiler for it defines; without any, this machine's compilers will do."""
    machine: tuple[str, str] | None = None
    """`sys.platform` and `platform.machine()` where it runs; none: here."""
    product: str = LIBRARY
    flags: tuple[str, ...] = _FLAGS
    link: tuple[str, ...] = _LINK
    """What makes the library of objects."""
    threads: bool = True
    paths_bf16: tuple[CodePath, ...] = ()
    """Those that multiply bf16, the best first; without any, bf16 is that of weights alone."""

    @property
    def runs_here(self) -> bool:
        """Whether this system can open the library; its processor may still be too old."""
        return self.machine in (None, (sys.platform, platform.machine()))

    @property
    def shared(self) -> bool:
        """Whether it has a system that opens shared libraries, and so can have Python."""
        return "-shared" in self.link


AVX512 = CodePath("avx512", ("-march=x86-64-v4",), "has_avx512()")
_BF16 = ("-march=x86-64-v4", "-mavx512bf16")
AVX512_BF16 = CodePath("avx512_bf16", _BF16, "has_avx512_bf16()")
AMX_BF16 = CodePath("amx_bf16", (*_BF16, "-mamx-tile", "-mamx-bf16"), "has_amx_bf16()")
AVX2 = CodePath("avx2", ("-march=x86-64-v3",), "has_avx2()")
SSE2 = CodePath("sse2", ("-march=x86-64",))
SCALAR = CodePath("scalar", ("-DVECTOR=1",))
NEON = CodePath("neon", ())
_HAS_VFPV4 = "({ extern unsigned long getauxval(unsigned long); getauxval(16) & 1 << 16; })"
_VECTORS = ("-funsafe-math-optimizations", "-fno-associative-math")
"""Without the first, gcc keeps off 32-bit NEON, which knows no subnormal numbers; the second keeps sums
in their order."""
NEON_FMA = CodePath("neon_fma", ("-mcpu=cortex-a7", "-mfpu=neon-vfpv4", *_VECTORS), _HAS_VFPV4)
NEON_A9 = CodePath("neon", ("-mcpu=cortex-a9", "-mfpu=neon", *_VECTORS))
SIMD128 = CodePath("simd128", ("-msimd128",))

_FOR_BF16 = (*([AMX_BF16] if sys.platform == "linux" else []), AVX512_BF16)

_ABI = {"win32": "windows-gnu", "darwin": "macos"}.get(sys.platform, "linux-gnu.2.17")


_MACHINES = {"x86_64": "__x86_64__", "amd64": "__x86_64__", "aarch64": "__aarch64__", "arm64": "__aarch64__"}
_HERE = frozenset(
    {_MACHINES[platform.machine().lower()]}
    if platform.machine().lower() in _MACHINES and sys.maxsize > 2**32
    else ()
)
"""What a compiler for this machine defines, where that is known."""


def _pc(*paths: CodePath, bf16: tuple[CodePath, ...] = ()) -> Target:
    """This system on any x86-64."""
    return Target(
        paths=paths,
        paths_bf16=bf16,
        zig=("-target", f"x86_64-{_ABI}", "-s"),
        macros=frozenset({"__x86_64__"}),
        machine=(sys.platform, "AMD64" if sys.platform == "win32" else "x86_64"),
    )


def _cortex(core: str, fpu: str, macro: str) -> Target:
    """One object, for a firmware to link; it needs `memcpy` and `memset`, as C compilers do."""
    return Target(
        paths=(SCALAR,),
        zig=("-target", "thumb-freestanding-eabihf", "-fno-unwind-tables", "-g0", "-meabi", "gnu"),
        cross=("arm-none-eabi-gcc",),
        macros=frozenset({macro, "__thumb__"}),
        machine=("none", core),
        product="model.o",
        flags=(f"-mcpu={core}", "-mthumb", f"-mfpu={fpu}", "-mfloat-abi=hard", "-fshort-enums"),
        link=("-r", "-nostdlib"),
        threads=False,
    )


TARGETS: dict[str, Target] = {
    "native": Target(
        (), ("-mcpu=baseline", "-s"), paths_bf16=_FOR_BF16 if "__x86_64__" in _HERE else (), macros=_HERE
    ),
    "x86-64": _pc(AVX512, AVX2, SSE2),
    "x86-64-v3": _pc(AVX2),
    "x86-64-v4": _pc(AVX512, bf16=_FOR_BF16),
    "scalar": Target((SCALAR,), ("-mcpu=baseline",), macros=_HERE),
    "aarch64-linux": Target(
        paths=(NEON,),
        zig=("-target", "aarch64-linux-gnu.2.17", "-s"),
        cross=("aarch64-linux-gnu-gcc",),
        macros=frozenset({"__aarch64__", "__linux__"}),
        machine=("linux", "aarch64"),
        product="libmodel.so",
    ),
    "armv7-linux": Target(
        paths=(NEON_FMA, NEON_A9),
        zig=("-target", "arm-linux-gnueabihf.2.17", "-s"),
        cross=("arm-linux-gnueabihf-gcc",),
        macros=frozenset({"__arm__", "__linux__"}),
        machine=("linux", "armv7l"),
        product="libmodel.so",
    ),
    "aarch64-macos": Target(
        paths=(NEON,),
        zig=("-target", "aarch64-macos", "-s"),
        macros=frozenset({"__aarch64__", "__APPLE__"}),
        machine=("darwin", "arm64"),
        product="libmodel.dylib",
    ),
    "x86_64-macos": Target(
        paths=(AVX512, AVX2, SSE2),
        zig=("-target", "x86_64-macos", "-s"),
        macros=frozenset({"__x86_64__", "__APPLE__"}),
        machine=("darwin", "x86_64"),
        product="libmodel.dylib",
    ),
    "x86_64-windows": Target(
        paths=(AVX512, AVX2, SSE2),
        zig=("-target", "x86_64-windows-gnu", "-s"),
        cross=("x86_64-w64-mingw32-gcc",),
        macros=frozenset({"__x86_64__", "_WIN32"}),
        machine=("win32", "AMD64"),
        product="model.dll",
        flags=_WINDOWS_FLAGS,
        link=_WINDOWS_LINK,
    ),
    "wasm32": Target(
        paths=(SIMD128,),
        zig=("-target", "wasm32-freestanding", "-s"),
        cross=("clang", "--target=wasm32"),
        macros=frozenset({"__wasm32__"}),
        machine=("none", "wasm32"),
        product="model.wasm",
        flags=("-mbulk-memory",),
        link=(
            "-nostdlib",
            "-Wl,--no-entry",
            "-Wl,--export-dynamic",
            "-Wl,--export=__heap_base",
            "-Wl,-z,stack-size=65536",
        ),
        threads=False,
    ),
    "cortex-m4": _cortex("cortex-m4", "fpv4-sp-d16", "__ARM_ARCH_7EM__"),
    "cortex-m7": _cortex("cortex-m7", "fpv5-sp-d16", "__ARM_ARCH_7EM__"),
    "cortex-m55": _cortex("cortex-m55", "auto", "__ARM_FEATURE_MVE"),
}
"""By name. `native` is this machine; the x86-64 are this system's, for other processors."""


def find_target(name: str) -> Target:
    """The target of that name; `UnknownName` where there is none."""
    if name not in TARGETS:
        raise UnknownName("target", name, TARGETS)
    return TARGETS[name]
