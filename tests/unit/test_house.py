"""How the code reads: short functions, no helper that a single call uses, and every public thing explained."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("dbtrun", "watcher", "airflow_trigger")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function or a method, and where it is."""

    place: str
    node: Definition
    public: bool
    """Neither it nor what it is in has a name with an underscore, and it is in no function."""

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def private(self) -> bool:
        return self.node.name.startswith("_") and not self.node.name.startswith("__")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module by its path."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in files}


def functions_in(body: list[ast.stmt], place: str, public: bool) -> Iterator[Function]:
    """The functions of a module or a class, and those in them."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions_in(node.body, place, public and not node.name.startswith("_"))
        elif isinstance(node, Definition):
            yield Function(f"{place}:{node.lineno} {node.name}", node, public and not node.name.startswith("_"))
            yield from functions_in(node.body, place, public=False)
        elif isinstance(node, ast.If | ast.With | ast.Try):
            yield from functions_in(node.body, place, public)


@cache
def functions() -> tuple[Function, ...]:
    return tuple(functions_of(trees()))


def functions_of(modules: Mapping[str, ast.Module]) -> Iterator[Function]:
    for path, tree in modules.items():
        yield from functions_in(tree.body, path, public=True)


def called_once(modules: Mapping[str, ast.Module]) -> list[Function]:
    """The private functions whose name occurs once in these modules, in a call. A callback has no other way."""
    names: Counter[str] = Counter()
    calls: set[str] = set()
    for tree in modules.values():
        for node in ast.walk(tree):
            names.update(
                [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
            )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                calls.add(node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
    private = (one for one in functions_of(modules) if one.private)
    return [one for one in private if names[one.node.name] == 1 and one.node.name in calls]


def test_few_private_functions_are_used_by_a_single_call() -> None:
    """A reader of such code jumps back and forth. In kopf, httpx, anyio, uvicorn and starlette it is 2 to 5 percent."""
    once = called_once(trees())
    share = len(once) / len(functions())
    assert share <= 0.10, "\n".join(one.place for one in once)
    # The shortest of them say nothing that the code in their place would not say.
    assert sum(one.lines <= 3 for one in once) / len(functions()) <= 0.01


def test_no_more_private_functions_are_used_by_a_single_call_of_their_module() -> None:
    """Counted in each module by itself, so that no other module's function of the same name hides one.

    In aiohttp it is 7.5 percent, in httpx 4.9 and in kopf 3.6.
    """
    once = [one for path, tree in trees().items() for one in called_once({path: tree})]
    assert len(once) / len(functions()) <= 0.10, "\n".join(one.place for one in once)


def test_a_function_is_read_in_one_look() -> None:
    lines = [function.lines for function in functions()]
    assert median(lines) <= 10
    assert quantiles(lines, n=10)[-1] <= 25


def is_override(function: Function) -> bool:
    """Whether it is explained elsewhere: by Python, by a protocol's implementation, or as a command's help."""
    declared = isinstance(last := function.node.body[-1], ast.Expr) and getattr(last.value, "value", None) is ...
    return (
        declared
        or function.node.name.startswith("__")
        or any("command" in ast.dump(one) for one in function.node.decorator_list)
    )


def test_what_is_public_is_explained() -> None:
    public = [function for function in functions() if function.public and not is_override(function)]
    silent = [function.place for function in public if ast.get_docstring(function.node) is None]
    assert len(silent) / len(public) <= 0.05, "\n".join(silent)


def test_public_classes_are_explained() -> None:
    classes = [
        (f"{path}:{node.lineno} {node.name}", node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    silent = [place for place, node in classes if ast.get_docstring(node) is None]
    assert len(silent) / len(classes) <= 0.01, "\n".join(silent)


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions in it, which somebody else may call."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition | ast.Lambda):
            yield child
            yield from own_nodes(child)


def raised(function: Function) -> set[str]:
    """The exceptions that it raises itself, by `raise Name(...)`, and does not catch."""
    nodes = list(own_nodes(function.node))
    caught = {name for node in nodes if isinstance(node, ast.ExceptHandler) for name in names_of(node)}
    calls = [node.exc.func for node in nodes if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)} - caught


def names_of(handler: ast.ExceptHandler) -> set[str]:
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()


@cache
def bases() -> dict[str, set[str]]:
    """The names of the bases of every class; two classes of one name count as one."""
    found: dict[str, set[str]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(base.id for base in node.bases if isinstance(base, ast.Name))
    return found


def is_told(name: str, told: set[str]) -> bool:
    """Whether the text names the exception, or a class above it."""
    return name in told or any(is_told(base, told) for base in bases().get(name, ()))


def test_a_public_function_that_raises_says_what() -> None:
    untold = []
    for function in functions():
        if function.public and not is_override(function):
            told = set(re.findall(r"\w+", ast.get_docstring(function.node) or ""))
            # A name in lower case is a function that makes the error: it says which.
            missing = [name for name in sorted(raised(function)) if name[0].isupper() and not is_told(name, told)]
            untold += [f"{function.place}: {name}" for name in missing if name != "AssertionError"]
    assert untold == []
