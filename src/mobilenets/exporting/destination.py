"""Where a bundle goes: never over somebody's own files, and never half of one."""

from pathlib import Path

from mobilenets.errors import InputError
from mobilenets.files import read_json, sha256
from mobilenets.runtime.bundle import BUNDLE_KEY, MANIFEST_FILE
from mobilenets.text import count, first_few, printable

_ELSEWHERE = "Choose another place with -o, or move it away."


def check_destination(out: Path) -> None:
    """Refuse to replace anything but an empty folder or a bundle that nobody added to or changed."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError("is a file; a bundle is a folder.", file=out, remedy=_ELSEWHERE)
    own = _not_ours(out)
    if own is None:
        raise InputError(
            "is a folder with other things in it; an export replaces only a bundle or an empty folder.",
            file=out,
            remedy=_ELSEWHERE,
        )
    if own:
        raise InputError(
            f"is a bundle with {count(len(own), 'file')} added or changed after its export "
            f"({first_few([printable(name) for name in own])}), "
            "which a new export would delete.",
            file=out,
            remedy=_ELSEWHERE,
        )


def _not_ours(folder: Path) -> list[str] | None:
    """Names of files in a bundle that its export did not write so; `None` where it is no bundle.

    A model file that was changed is no work of a person but damage, and what Python caches is neither.
    """
    present = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() and "__pycache__" not in path.parts
    }
    if not present:
        return []
    try:
        entry = read_json(folder / MANIFEST_FILE)[BUNDLE_KEY]
        hashes, model_file = dict(entry["sha256"]), entry["model_file"]
    except (InputError, KeyError, TypeError, ValueError):
        return None
    return [
        name
        for name, path in present.items()
        if name not in (MANIFEST_FILE, model_file) and (name not in hashes or sha256(path) != hashes[name])
    ]
