import importlib
import importlib.util
import os
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# A busy machine is no error: hypothesis's deadline of 200 ms an example is left out.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# One thread a process, before torch is imported: the networks here are so small that a second one
# costs more than it brings, and far more where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def declare_missing_torchvision_operators() -> object | None:
    """Make `import torchvision` work beside a torch for which its C++ library was not built.

    timm imports torchvision, whose wheel registers shape functions for operators of its own C++
    library. On a CPU-only torch that library does not load, so the operators do not exist and the
    import fails. Declaring them is enough: timm's MobileNets never call one. Returns what must stay
    alive as long as the declarations, or `None` where torchvision loads by itself.
    """
    import torch
    from torch import library

    found = importlib.util.find_spec("torchvision")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    for compiled in folder.glob("_C.*"):
        try:
            torch.ops.load_library(str(compiled))
            return None
        except OSError:
            continue
    source = "".join(path.read_text() for path in folder.glob("_*_registrations.py"))
    declarations = library.Library("torchvision", "FRAGMENT")
    for operator in sorted(set(re.findall(r"torchvision::(\w+)", source))):
        declarations.define(f"{operator}(Tensor x) -> Tensor")
    return declarations


@pytest.fixture(scope="session")
def timm():
    """The timm package; skips where the extra `parity` is not installed."""
    for package in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'mobilenets[parity]'")
    declarations = declare_missing_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = importlib.import_module("timm")
    yield module
    del declarations


@pytest.fixture(scope="session")
def torchvision(timm):
    """The torchvision package, which timm brings with it."""
    return importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def transformers(timm):
    """The transformers package, kept from the network; skips where it is not installed.

    It imports torchvision where there is one, so it needs the declarations that come with `timm`.
    """
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: pip install 'mobilenets[parity]'")
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = importlib.import_module("transformers")
    yield module
    if before is None:
        del os.environ["HF_HUB_OFFLINE"]
    else:
        os.environ["HF_HUB_OFFLINE"] = before


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real pictures and weights; skips where there is none."""
    folder = os.environ.get("MOBILENETS_DATA")
    if not folder:
        pytest.skip("real pictures and weights are not here: set MOBILENETS_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory) -> Path:
    """Three classes of 40 small pictures each, drawn here: discs, squares and stripes on noise."""
    import numpy as np
    from PIL import Image, ImageDraw

    root = tmp_path_factory.mktemp("pictures") / "shapes"
    rng = np.random.default_rng(0)
    for name in ("disc", "square", "stripes"):
        (root / name).mkdir(parents=True)
        for index in range(40):
            image = Image.fromarray(rng.integers(60, 120, (40, 44, 3), dtype=np.uint8))
            draw, colour = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(170, 256, 3))
            x, y, side = (int(v) for v in rng.integers((6, 6, 18), (14, 12, 24)))
            if name == "disc":
                draw.ellipse((x, y, x + side, y + side), fill=colour)
            elif name == "square":
                draw.rectangle((x, y, x + side, y + side), fill=colour)
            else:
                for offset in range(0, 44, 8):
                    draw.line((0, offset, 44, offset), fill=colour, width=3)
            image.save(root / name / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """What a module's tests compile and convert does not fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILENETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
