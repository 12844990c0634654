"""Imported weights beside the implementation that they come from: the same picture, the same logits.

The other library runs in a process of its own (`proof.theirs`), so that what it imports, prints or
crashes on is not ours. Where it is not installed the import goes unproven, and says so.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets.checkpoint import Checkpoint, Manifest
from mobilenets.errors import GateFailed
from mobilenets.evaluation import softmax
from mobilenets.exporting.golden import generated
from mobilenets.network import from_checkpoint
from mobilenets.preprocessing import normalise, prepare
from mobilenets.text import printable
from mobilenets.tolerances import agreement
from mobilenets.weights.importing import Imported
from mobilenets.weights.source import Found

Kind = Literal["logits", "probabilities", "quantised"]

_LEAST_PROBABILITY = 1e-30
"""What fp32 still holds with full precision."""
TIMEOUT = 300
"""Seconds that the other library has; importing it takes most of them."""


@dataclass(frozen=True)
class Answer:
    """What the other implementation said of the pictures."""

    implementation: str
    """Its name and version."""
    kind: Kind
    """`quantised` outputs are rounded to 8 bits on the way, and cannot agree to rounding errors."""
    values: NDArray[np.float32]
    """N×classes."""


def prove(imported: Imported) -> str:
    """Compare `imported` with the implementation it came from, on three generated pictures.

    Returns one sentence: how close they are, or why they were not compared. Raises `GateFailed`
    where they differ by more than another order of summation explains.
    """
    found = imported.found
    pixels = np.stack(list(_pictures(found)))
    answer = _ask(found, imported.files, pixels)
    if isinstance(answer, str):
        return f"Not compared with {found.source}: {answer}"
    manifest = Manifest(found.spec, imported.checkpoint.manifest.labels, found.preprocessing)
    network = from_checkpoint(Checkpoint(manifest, found.tensors))
    seen = normalise(pixels, found.preprocessing).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        ours: NDArray[np.float32] = network(torch.from_numpy(np.ascontiguousarray(seen))).numpy()
    return _sentence(answer, ours, len(pixels))


def _pictures(found: Found) -> list[NDArray[np.uint8]]:
    made = generated(found.spec.resolution)
    chosen = [made[name] for name in ("gradient", "noise", "discs-wide")]
    return [prepare(image, found.preprocessing, found.spec.resolution) for image in chosen]


def _sentence(answer: Answer, ours: NDArray[np.float32], pictures: int) -> str:
    what, theirs = answer.implementation, answer.values
    if theirs.shape[1] == ours.shape[1] + 1:  # TensorFlow's background, which was left out here
        theirs = theirs[:, 1:]
    if theirs.shape != ours.shape:
        raise GateFailed(f"{what} gives {theirs.shape[1]} values a picture, this network {ours.shape[1]}.")
    same = int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum())
    if answer.kind == "quantised":
        return (
            f"Compared with {what}, which computes in 8 bits: the same best class for {same} of "
            f"{pictures} generated pictures."
        )
    if answer.kind == "logits" and np.array_equal(theirs, ours):
        return f"Proven: {what} gives the same logits, to the bit, for {pictures} generated pictures."
    of = ""
    if answer.kind == "probabilities":  # their logarithms are logits up to a constant, and as exact
        theirs = theirs / theirs.sum(axis=1, keepdims=True)
        ours, theirs = (np.log(np.maximum(p, _LEAST_PROBABILITY)) for p in (softmax(ours), theirs))
        of = " of the logarithms"
    result = agreement(theirs, ours)
    figure = f"max |Δ|{of} {result.max_difference:.2g}, {result.relative:.2g} of their standard deviation"
    if not result.holds:
        raise GateFailed(
            f"{what} gives other {answer.kind} for the same weights ({figure}); nothing was written.",
            remedy="This is a bug in mobilenets, or a file that another version of that library wrote.",
        )
    return f"Proven: {what} gives the same {answer.kind} for {pictures} generated pictures ({figure})."


def _ask(found: Found, files: Sequence[Path], pixels: NDArray[np.uint8]) -> Answer | str:
    """The other implementation's answer, or why there is none."""
    from mobilenets.proof import theirs

    if found.source not in theirs.IMPLEMENTATIONS:
        return "nobody's implementation is known for it."
    with tempfile.TemporaryDirectory(prefix="mobilenets-") as folder:
        work = Path(folder)
        np.save(work / "pixels.npy", pixels)
        request = theirs.request(found, files)
        (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "mobilenets.proof.theirs", str(work)]
        try:
            run = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            return f"it took more than {TIMEOUT} seconds."
        if not (work / "answer.json").is_file():
            last = run.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it ended in silence"]
            return f"{printable(last[0])[:200]}."
        said = json.loads((work / "answer.json").read_text(encoding="utf-8"))
        if "why" in said:
            return str(said["why"])
        values = np.load(work / "values.npy", allow_pickle=False).astype(np.float32)
        return Answer(said["implementation"], said["kind"], values)
