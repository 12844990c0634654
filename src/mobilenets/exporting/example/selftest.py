"""Check that this folder is whole and computes here what it computed where it was made.

    python selftest.py

Every golden picture is prepared, run and compared with the logits of the model that this one was
exported from. The exit code is 0 if all agree and 1 if not.
"""

import hashlib
import json
import sys

import numpy as np
from predict import HERE, Classifier
from support.tolerances import agreement

YOURS_TO_CHANGE = ("README.md", "predict.py", "requirements.txt")


def changed_files() -> list[str]:
    """One sentence for every file that is missing or not as it was exported."""
    hashes = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))["bundle"]["sha256"]
    complaints = []
    for name, expected in hashes.items():
        file = HERE / name
        if not file.is_file():
            complaints.append(f"{name} is missing.")
        elif name not in YOURS_TO_CHANGE and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            complaints.append(f"{name} was changed after the export.")
    return complaints


def check_pictures() -> list[str]:
    """Print one line for every golden picture; one sentence for every disagreement."""
    golden = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))["pictures"]
    tolerance = json.loads((HERE / "certificate.json").read_text(encoding="utf-8"))["comparison"]["tolerance"]
    classifier = Classifier()
    pixels = [classifier.pixels(HERE / picture["file"]) for picture in golden]
    expected = np.array([picture["logits"] for picture in golden], dtype=np.float32)
    single = np.concatenate([classifier.logits(one[None]) for one in pixels])
    together = classifier.logits(np.stack(pixels))
    spread = float(expected.std()) or 1.0
    complaints = []
    for i, picture in enumerate(golden):
        same = hashlib.sha256(pixels[i].tobytes()).hexdigest() == picture["pixels_sha256"]
        off = float(np.abs(expected[i] - single[i]).max()) / spread
        print(f"{picture['file']:28} pixels {'equal' if same else 'DIFFER'}   logits {off:.1e} apart")
        if not same:
            complaints.append(f"{picture['file']}: Pillow prepares other pixels here than where it was made.")
    for way, logits in (("one at a time", single), ("all together", together)):
        found = agreement(expected, logits, tolerance)
        print(
            f"{found.n} pictures {way}: {found.relative:.1e} of the logits' spread apart "
            f"(allowed {tolerance:.0e}), same best class on {found.top1_agreement:.0%}"
        )
        if not found.holds:
            complaints.append(f"the model computes something else here ({way}).")
    return complaints


def main() -> int:
    """0 if everything agrees, else 1."""
    complaints = changed_files()
    if not any("missing" in complaint for complaint in complaints):
        complaints += check_pictures()
    for complaint in complaints:
        print(f"FAILED: {complaint}", file=sys.stderr)
    if not complaints:
        print("passed: this model computes here what it computed where it was made.")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
