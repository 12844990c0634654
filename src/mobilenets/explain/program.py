"""The code that made a number, cut out of the module that holds it: it runs as it stands on the page.

A page that prints code beside a figure soon prints last year's code. Here the text comes from
`inspect`, for the very function that was called, together with whatever it uses from its own module;
a test runs every such text by itself and compares what it gives with what the page says.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


def program(*functions: Callable[..., Any]) -> str:
    """The source of `functions` of one module: its imports, constants and helpers that they use, in order.

    The text is a whole module of its own, without the parts that nothing in it names.
    """
    module = inspect.getmodule(functions[0])
    if not isinstance(module, ModuleType):
        raise TypeError(f"{functions[0]!r} belongs to no module, so its source cannot be shown.")
    source = inspect.getsource(module)
    body = ast.parse(source).body
    named = {name: node for node in body for name in _defines(node)}
    needed = {function.__name__ for function in functions}
    waiting = list(needed)
    while waiting:
        for name in _uses(named[waiting.pop()]):
            if name in named and name not in needed:
                needed.add(name)
                waiting.append(name)
    return _joined(source, body, needed)


def _defines(node: ast.stmt) -> list[str]:
    """The names that a statement of a module gives a meaning to."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _uses(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.Constant) and isinstance(child.value, str) and child.value.isidentifier():
            yield child.value  # a name in an annotation that is written as text


def _joined(source: str, body: list[ast.stmt], needed: set[str]) -> str:
    imports, rest = [], []
    for at, node in enumerate(body):
        if not needed.intersection(_defines(node)):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(_import(node, needed))
        else:
            rest.append(_segment(source, node, body[at + 1 : at + 2]))
    parts = ["\n".join(imports)] if imports else []
    return "\n\n".join(parts + rest) + "\n"


def _import(node: ast.Import | ast.ImportFrom, needed: set[str]) -> str:
    kept = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in needed]
    if isinstance(node, ast.Import):
        return ast.unparse(ast.Import(kept))
    return ast.unparse(ast.ImportFrom(node.module, kept, node.level))


def _segment(source: str, node: ast.stmt, after: list[ast.stmt]) -> str:
    """The lines of `node`, its decorators, and the text below a constant that explains it."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    last = node.end_lineno or node.lineno
    for text in after:
        explains = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if explains and isinstance(node, ast.Assign | ast.AnnAssign):
            last = text.end_lineno or last
    return "\n".join(source.splitlines()[first - 1 : last])
