"""Libraries for other machines: built here, and run where there is an emulator for them.

The golden logits are torch's in float64, for weights in bf16 this machine's; the tolerance is that of every
other path.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'mobilenets[train]'")

from calibrated import calibrated
from mobilenets.compiler import planning, toolchain, translate
from mobilenets.compiler.targets import TARGETS
from mobilenets.errors import EnvironmentFault, UnknownName
from mobilenets.exporting import export
from mobilenets.runtime.bundle import is_bundle
from mobilenets.runtime.compiled_session import CompiledSession
from mobilenets.runtime.shared_library import Library
from mobilenets.tolerances import agreement
from test_compiler import in_float64, pictures, run

FIRMWARE = Path(__file__).parent / "firmware"
OF_THE_SYSTEM = {
    "aarch64-linux": "aarch64-linux-gnu-gcc",
    "armv7-linux": "arm-linux-gnueabihf-gcc",
    "x86_64-windows": "x86_64-w64-mingw32-gcc",
    "wasm32": "clang --target=wasm32",
    "cortex-m4": "arm-none-eabi-gcc",
    "cortex-m7": "arm-none-eabi-gcc",
    "cortex-m55": "arm-none-eabi-gcc",
}
"""What Debian has for a target. zig's first library for a system takes minutes: it builds a libc."""


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module", autouse=True)
def _weights_in_bf16():
    """The network here has no convolution of many weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "FEW", 0)
        yield


@pytest.fixture(scope="module")
def checkpoint():
    return calibrated()


@pytest.fixture(scope="module")
def pixels(checkpoint):
    return pictures(checkpoint.spec, 4)


@pytest.fixture(scope="module")
def goldens(checkpoint, pixels):
    """By precision: what torch computes, and with weights in bf16, what this machine does."""
    exact = in_float64(checkpoint, pixels).astype(np.float32)
    rounded = CompiledSession(checkpoint, precision="bf16").run(pixels)
    assert 1e-5 < agreement(exact, rounded).relative < 0.05
    return {"fp32": exact, "bf16": rounded}


def by_zig_and_system(*targets):
    """Target, the system's compiler or for `make test-all` zig, precision of weights."""
    return [
        pytest.param(
            target, compiler, precision, id=f"{target}-{compiler.split()[0]}-{precision}", marks=marks
        )
        for target in targets
        for compiler, precision, marks in (
            (OF_THE_SYSTEM[target], "fp32", [pytest.mark.slow]),
            (OF_THE_SYSTEM[target], "bf16", [pytest.mark.slow]),
            ("zig", "fp32", [pytest.mark.slow, pytest.mark.full]),
            ("zig", "bf16", [pytest.mark.slow, pytest.mark.full]),
        )
    ]


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")


def compiler_of(target, named):
    if named == "zig":
        if importlib.util.find_spec("ziglang") is None:
            pytest.skip("zig is not installed: pip install 'mobilenets[compile]'")
        found = toolchain.find_compiler(target, {})
    else:
        need(named.split()[0], *(["wasm-ld"] if target == "wasm32" else []))
        found = toolchain.find_compiler(target, {"CC": named})
    assert ("ziglang" in found.command) == (named == "zig")
    return found


def built(checkpoint, target, named, folder, precision="fp32"):
    compiler = compiler_of(target, named)
    paths = toolchain.code_paths(compiler)
    program = translate(checkpoint, precision=precision, fp32_maps=True)
    toolchain.write_sources(program, paths, folder, threads=compiler.target.threads)
    return toolchain.compile_library(folder, paths, compiler)


def printed(done, spec):
    """What golden.c prints: the path, and the logits' bits."""
    assert done.returncode == 0, done.stdout + done.stderr
    path, *words = done.stdout.split()
    bits = np.array([int(word, 16) for word in words], "<u4")
    return path, bits.view("<f4").reshape(-1, spec.classes)


@pytest.mark.parametrize("target, named, precision", by_zig_and_system("aarch64-linux", "armv7-linux"))
def test_linux_on_arm_computes_the_same(checkpoint, pixels, goldens, tmp_path, target, named, precision):
    emulator, system, processors = {
        "aarch64-linux": ("qemu-aarch64", "/usr/aarch64-linux-gnu", {"cortex-a53": "neon"}),
        "armv7-linux": (
            "qemu-arm",
            "/usr/arm-linux-gnueabihf",
            {"cortex-a15": "neon_fma", "cortex-a9": "neon"},
        ),
    }[target]
    need(emulator)
    if not Path(system).is_dir():
        pytest.skip(f"{system}, a libc for the emulator, is not here")
    library = built(checkpoint, target, named, tmp_path, precision)
    (tmp_path / "pixels.bin").write_bytes(pixels.tobytes())
    compiler = compiler_of(target, named)
    shutil.copy(FIRMWARE / "golden.c", tmp_path)
    options = ["-O1", f"-DPICTURES={len(pixels)}", "-DTHREADS=2", "-Wa,-I.", "-Wl,-rpath,."]
    made = run(*compiler.command, *options, "golden.c", library.name, "-o", "golden", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    for processor, expected in processors.items():
        done = run(emulator, "-cpu", processor, "-L", system, "./golden", cwd=tmp_path)
        path, logits = printed(done, checkpoint.spec)
        assert path == expected
        assert agreement(goldens[precision], logits).holds


@pytest.mark.parametrize("target, named, precision", by_zig_and_system("x86_64-windows"))
def test_windows_computes_the_same(
    checkpoint, pixels, goldens, tmp_path, target, named, precision, monkeypatch
):
    """In Wine: its loader, its threads' stacks and its calling convention."""
    library = built(checkpoint, target, named, tmp_path, precision)
    need("wine", "x86_64-w64-mingw32-gcc")
    (tmp_path / "pixels.bin").write_bytes(pixels.tobytes())
    shutil.copy(FIRMWARE / "golden.c", tmp_path)
    options = ["-O1", f"-DPICTURES={len(pixels)}", "-DTHREADS=2", "-Wa,-I."]
    made = run(
        *("x86_64-w64-mingw32-gcc", *options, "golden.c", library.name, "-o", "golden.exe"), cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("WINEPREFIX", str(tmp_path / "wine"))
    monkeypatch.setenv("WINEDEBUG", "-all")
    done = run("wine", "golden.exe", cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=300)
    path, logits = printed(done, checkpoint.spec)
    assert path in {"avx512", "avx2", "sse2"}
    assert agreement(goldens[precision], logits).holds


BOARDS = {
    "cortex-m4": ("mps2-an386", "0x00000000", "0x20000000"),
    "cortex-m7": ("mps2-an500", "0x00000000", "0x20000000"),
    "cortex-m55": ("mps3-an547", "0x10000000", "0x30000000"),
}
"""A board that qemu knows, and where its code and its data lie."""


@pytest.mark.parametrize("target, named, precision", by_zig_and_system(*BOARDS))
def test_a_firmware_computes_the_same(checkpoint, pixels, goldens, tmp_path, target, named, precision):
    library = built(checkpoint, target, named, tmp_path, precision)
    need("arm-none-eabi-gcc", "arm-none-eabi-nm")
    listed = run("arm-none-eabi-nm", "--undefined-only", str(library)).stdout.split()
    assert {name for name in listed if name != "U"} <= {
        "memcpy",
        "memset",
    }
    assert library.stat().st_size < 120_000
    need("qemu-system-arm")
    (tmp_path / "pixels.bin").write_bytes(pixels.tobytes())
    board, code, data = BOARDS[target]
    made = run(
        "arm-none-eabi-gcc",
        *TARGETS[target].flags,
        *("-O1", f"-DPICTURES={len(pixels)}", "-I.", "-Wa,-I.", "--specs=rdimon.specs"),
        *("-T", str(FIRMWARE / "memory.ld"), f"-Wl,--defsym=CODE={code},--defsym=DATA={data}"),
        *(str(FIRMWARE / "golden.c"), str(FIRMWARE / "startup.c"), library.name, "-o", "golden.elf"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    command = ["qemu-system-arm", "-M", board, "-nographic", "-semihosting", "-kernel", "golden.elf"]
    done = run(*command, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=300)
    path, logits = printed(done, checkpoint.spec)
    assert path == "scalar"
    assert agreement(goldens[precision], logits).holds


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("target", ["native", "x86-64"])
def test_zig_compiles_for_this_machine(checkpoint, pixels, goldens, tmp_path, monkeypatch, target):
    """Its library finds the same path as that of the system's compiler."""
    need("cc")
    theirs = built(checkpoint, target, "cc", tmp_path / "cc")
    monkeypatch.setattr(shutil, "which", lambda name: name if name == sys.executable else None)
    ours = Library(built(checkpoint, target, "zig", tmp_path / "zig"), threads=2)
    assert ours.path == Library(theirs, threads=1).path
    assert agreement(goldens["fp32"], ours.run(pixels)).holds


NODE = """
import { readFileSync } from "node:fs";
import { open } from "./model.mjs";
const model = await open(readFileSync("model.wasm"));
const pixels = readFileSync("pixels.bin"), size = model.side * model.side * model.channels, logits = [];
for (let at = 0; at < pixels.length; at += size) logits.push([...model.run(pixels.subarray(at, at + size))]);
let refused = "";
try { model.run(new Uint8Array(7)); } catch (error) { refused = error.message; }
console.log(JSON.stringify({ logits, refused, labels: model.labels, path: model.path }));
"""


@pytest.mark.parametrize("target, named, precision", by_zig_and_system("wasm32"))
def test_webassembly_computes_the_same(checkpoint, pixels, goldens, tmp_path, target, named, precision):
    need("node")
    assert built(checkpoint, target, named, tmp_path, precision).name == "model.wasm"
    (tmp_path / "pixels.bin").write_bytes(pixels.tobytes())
    (tmp_path / "check.mjs").write_text(NODE)
    shutil.copy(Path(toolchain.__file__).parent / "c" / "model.mjs", tmp_path)
    done = run("node", "check.mjs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert agreement(goldens[precision], np.array(found["logits"], np.float32)).holds
    assert found["labels"] == list(checkpoint.manifest.labels)
    assert found["path"] == "simd128"
    assert found["refused"] == f"a picture has {pixels[0].size} bytes, not 7"


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(
    "target, head",
    [
        ("x86_64-windows", b"MZ"),
        ("aarch64-macos", bytes.fromhex("cffaedfe0c000001")),
        ("x86_64-macos", bytes.fromhex("cffaedfe07000001")),
    ],
)
def test_other_systems_get_a_library_with_our_names(checkpoint, tmp_path, monkeypatch, target, head):
    """There is no emulator for these."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    content = built(checkpoint, target, "zig", tmp_path / "there").read_bytes()
    assert list(Path().iterdir()) == []
    assert content.startswith(head)
    for name in (b"model_bytes", b"model_open", b"model_run", b"model_close", b"model_labels", b"model_side"):
        assert name + b"\0" in content


# --- bundles ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_single_threaded_library_has_no_threads(checkpoint, pixels, goldens, tmp_path):
    bundle = export(checkpoint, "c", out=tmp_path / "bundle", single_threaded=True)
    assert agreement(goldens["fp32"], Library(bundle.model_file, threads=2).run(pixels)).holds
    assert b"pthread_create" not in bundle.model_file.read_bytes()
    assert "Threads" not in (bundle.folder / "c" / "CMakeLists.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bundle_for_another_machine_says_that_it_did_not_run(checkpoint, tmp_path, precision):
    compiler_of("cortex-m4", OF_THE_SYSTEM["cortex-m4"])
    said = []

    class Listener:
        def say(self, line):
            said.append(line)

        def track(self, items, total, title):
            return items

    how = {"target": "cortex-m4", "precision": precision, "progress": Listener()}
    bundle = export(checkpoint, "c", out=tmp_path / "bundle", **how)
    assert said[-1].startswith("model.o is for cortex-m4 and did not run")
    assert any(line.startswith("Weights are bf16") for line in said) == (precision == "bf16")
    assert is_bundle(bundle.folder)
    assert (bundle.certificate["comparison"]["relative"] > 1e-4) == (precision == "bf16")
    candidate = bundle.certificate["candidate"]
    assert candidate["precision"] == precision
    assert (candidate["target"], candidate["ran"]) == ("cortex-m4", False)
    assert not list(bundle.folder.glob("*.py"))
    text = (bundle.folder / "README.md").read_text()
    assert "It is for cortex-m4" in text
    assert ".py" not in text


# --- what can go wrong -----------------------------------------------------------------------------


def test_without_a_compiler_for_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(toolchain, "_answering", lambda command, target: None)
    with pytest.raises(EnvironmentFault, match="no C compiler for wasm32 here") as caught:
        toolchain.find_compiler("wasm32", {})
    assert "mobilenets[compile]" in str(caught.value)


def test_a_compiler_for_another_machine_is_passed_over(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(Path(shutil.which("cc")).parent))
    monkeypatch.setattr(
        toolchain.Compiler, "macros", lambda self, flags: frozenset({"__x86_64__", "__linux__"})
    )
    for target in ("aarch64-linux", "cortex-m4", "wasm32"):
        with pytest.raises(EnvironmentFault, match=f"no C compiler for {target} here"):
            toolchain.find_compiler(target, {"CC": "cc"})


def test_an_unknown_target_is_named():
    with pytest.raises(UnknownName, match="aarch46-linux"):
        toolchain.find_compiler("aarch46-linux")


def test_zig_is_told_the_processor_its_way():
    command = (sys.executable, "-m", "ziglang", "cc")
    zig = toolchain.Compiler(command, "", TARGETS["cortex-m4"])
    assert zig.told(("-O2", *TARGETS["cortex-m4"].flags)) == (
        "-O2",
        "-mcpu=cortex_m4+vfp4d16sp",
        "-fshort-enums",
    )
    assert zig.told(TARGETS["cortex-m55"].flags)[0] == "-mcpu=cortex_m55+mve_fp"
    assert zig.told(["-march=x86-64-v4"]) == ("-mcpu=x86_64_v4",)


AVX512_MACROS = {f"__AVX512{part}__" for part in ("F", "VL", "BW", "DQ", "CD")}
AVX2_MACROS = {f"__{part}__" for part in ("AVX2", "FMA", "BMI", "BMI2", "LZCNT", "MOVBE", "F16C")}


@pytest.mark.parametrize(
    "defined, names",
    [
        ({"__SSE2__", *AVX2_MACROS, *AVX512_MACROS}, ["avx512"]),
        ({"__SSE2__", *AVX2_MACROS, "__AVX512F__"}, ["avx2"]),
        ({"__SSE2__", *AVX2_MACROS} - {"__MOVBE__"}, ["sse2"]),
        ({"__SSE2__", "__AVX__"}, ["sse2"]),
        ({"__ARM_NEON", "__aarch64__"}, ["neon"]),
        ({"__ARM_NEON", "__arm__", "__linux__"}, ["neon_fma", "neon"]),
        ({"__arm__", "__linux__"}, ["scalar"]),
    ],
)
def test_a_library_for_here_has_no_instruction_that_it_does_not_ask_for(monkeypatch, defined, names):
    """Taken to another machine, it says that it cannot run there; with -march=native, it would crash."""
    monkeypatch.setattr(toolchain.Compiler, "macros", lambda self, flags: frozenset(defined))
    paths = toolchain.code_paths(toolchain.Compiler(("cc",), "", TARGETS["native"]))
    assert [path.name for path in paths] == names
    for path in paths:
        assert not {"-march=native", "-mcpu=native"} & {*path.flags}


def test_a_c_compiler_may_be_named_from_the_folder_that_one_is_in(tmp_path, monkeypatch):
    """It is called in other folders."""
    need("cc")
    (tmp_path / "mine").symlink_to(shutil.which("cc"))
    monkeypatch.chdir(tmp_path)
    found = toolchain.find_compiler("native", {"CC": "./mine -O1"})
    assert found.command == (str(tmp_path / "mine"), "-O1")


def test_a_c_compiler_for_another_machine_does_not_compile_for_this_one(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    need("arm-none-eabi-gcc")
    with pytest.raises(EnvironmentFault, match=r"arm-none-eabi-gcc.* names, is for another machine"):
        toolchain.find_compiler("native", {"CC": "arm-none-eabi-gcc"})


def test_clang_is_not_told_what_gcc_alone_knows():
    flags = ("-O2", *toolchain.OF_GCC)
    assert toolchain.Compiler(("gcc",), "gcc (Debian) 12.2.0", TARGETS["native"]).told(flags) == flags
    for command, version in (
        (("cc",), "Debian clang version 14"),
        ((sys.executable, "-m", "ziglang", "cc"), ""),
    ):
        assert toolchain.Compiler(command, version, TARGETS["native"]).told(flags) == ("-O2",)
