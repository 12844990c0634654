"""Print the longest modules and functions: a look at what may want to become two, not a limit."""

import ast
from pathlib import Path

SOURCE = Path("src/mobilenets")
SHOWN = 8


def functions(file: Path) -> list[tuple[int, str]]:
    """(lines, place) of every function in `file`, nested ones on their own as well."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        (node.end_lineno - node.lineno + 1, f"{file}:{node.lineno} {node.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]


def main() -> None:
    """Print both lists, and the totals."""
    files = sorted(SOURCE.rglob("*.py"))
    modules = [(len(file.read_text(encoding="utf-8").splitlines()), str(file)) for file in files]
    everything = [row for file in files for row in functions(file)]
    for title, rows in (("modules", modules), ("functions", everything)):
        print(f"{len(rows)} {title}; lines of the longest:")
        for lines, place in sorted(rows, reverse=True)[:SHOWN]:
            print(f"  {lines:4d}  {place}")


if __name__ == "__main__":
    main()
