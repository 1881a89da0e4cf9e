"""Constructor signatures read from source files: a config is checked without importing torch.

`constructor_signature("torch.optim.AdamW")` follows the dotted name as Python's import would,
through re-exports and base classes, but only parses the files with `ast`.
"""

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MAX_HOPS = 12  # re-exports and base classes on the way to one definition


@dataclass(frozen=True)
class Signature:
    """What a class or function can be called with.

    Attributes:
        annotations: argument name -> its annotation as written, "" where there is none.
        takes_any_keyword: it has ``**kwargs``.
    """

    annotations: dict[str, str]
    takes_any_keyword: bool


class UnknownTarget(Exception):
    """The dotted name leads to no module, or to no definition in it."""


def constructor_signature(target: str) -> Signature | None:
    """Signature of a class's constructor, or of a function or class method.

    Args:
        target: dotted name, as in ``_target_``.

    Returns:
        The signature, or None where reading cannot tell (compiled or dynamic code).

    Raises:
        UnknownTarget: one sentence, if no such module exists, or no such name in a module of plain
            definitions.
    """
    module, names = _split(target)
    if not names or module_file(module) is None:
        return None
    found = _find(module, names[0], MAX_HOPS)
    if found is None:
        return None
    home, node = found
    if len(names) == 1:
        return _signature(home, node, MAX_HOPS)
    if len(names) == 2 and isinstance(node, ast.ClassDef):
        method = _method(node, names[1])
        return None if method is None else _of_function(method, skip_first=True)
    return None


def find_definition(target: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module that defines what a dotted name `module.name` leads to, and its definition.

    Args:
        target: dotted name of a class or function; a member of a class is not found.

    Returns:
        None where it is neither, or reading cannot tell.

    Raises:
        UnknownTarget: see `constructor_signature`.
    """
    module, names = _split(target)
    return _find(module, names[0], MAX_HOPS) if len(names) == 1 else None


def is_constant(target: str) -> bool:
    """Whether the module of a dotted name assigns this name, as a constant in capitals, itself."""
    module, _, name = target.rpartition(".")
    file = module_file(module)
    if file is None or not name.isupper():
        return False
    assigned = (node for node in _statements(file) if isinstance(node, ast.Assign | ast.AnnAssign))
    return any(
        isinstance(place, ast.Name) and place.id == name
        for node in assigned
        for place in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )


@cache
def module_file(module: str) -> Path | None:
    """Source file of a module; None for compiled ones.

    Raises:
        UnknownTarget: if there is no such module.
    """
    top, *rest = module.split(".")
    # Looking up a top-level name imports nothing; looking up a submodule would import its parents.
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise UnknownTarget(f"there is no module {top!r}")
    if not rest and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    for part in rest[:-1]:
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    name = rest[-1] if rest else "__init__"
    for folder in folders:
        for file in (folder / name / "__init__.py", folder / f"{name}.py"):
            if file.is_file():
                return file
        if any(folder.glob(f"{name}.*.so")) or (folder / name).is_dir():
            return None
    raise UnknownTarget(f"there is no module {module!r}")


def definitions(module: str, hops: int = MAX_HOPS) -> list[str]:
    """Names of the classes and functions that a module defines, or takes from others by a star."""
    file = module_file(module)
    if file is None or hops == 0:
        return []
    names = []
    for node in _statements(file):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            names += definitions(_absolute(node, module, file), hops - 1)
    return names


def _split(target: str) -> tuple[str, list[str]]:
    """The longest leading part that is a module, and the names after it."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        try:
            module_file(module)
        except UnknownTarget:
            if count == 1:
                raise
            continue
        names = parts[count:]
        if names[0][:1].islower() and len(names) > 1:
            raise UnknownTarget(f"there is no module {'.'.join(parts[: count + 1])!r}")
        return module, names
    raise UnknownTarget(f"{target!r} is not a dotted name of a class or function")


@cache
def _statements(file: Path) -> list[ast.stmt]:
    """Top-level statements, those inside `if` and `try` included."""
    found: list[ast.stmt] = []
    pending = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop(0)
        found.append(node)
        if isinstance(node, ast.If | ast.Try):
            pending = [*node.body, *node.orelse, *pending]
    return found


def _find(module: str, name: str, hops: int) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module that defines `name`, and its definition, following imports."""
    file = module_file(module)
    if file is None or hops == 0:
        return None
    dynamic = False
    starred: list[str] = []
    for node in reversed(_statements(file)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node.name == name:
                return module, node
            dynamic |= node.name == "__getattr__"
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, module, file)
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(origin, alias.name, hops - 1)
            starred += [origin] * (node.names[0].name == "*")
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.Import):
            names = [getattr(target, "id", "") for target in getattr(node, "targets", [])]
            dynamic |= name in names
    for origin in starred:
        try:
            return _find(origin, name, hops - 1)
        except UnknownTarget:
            continue
    if dynamic:
        return None
    raise UnknownTarget(f"{module} has no {name!r}")


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    """Full name of the module that a `from ... import` names."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    found = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == name]
    return found[-1] if found else None


def _of_function(node: ast.FunctionDef, skip_first: bool) -> Signature:
    arguments = [*node.args.posonlyargs, *node.args.args][skip_first:] + node.args.kwonlyargs
    annotations = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments}
    return Signature(annotations, node.args.kwarg is not None)


def _signature(module: str, node: ast.ClassDef | ast.FunctionDef, hops: int) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, skip_first=False)
    constructor = _method(node, "__init__") or _method(node, "__new__")
    if constructor:
        return _of_function(constructor, skip_first=True)
    bases = [ast.unparse(base) for base in node.bases]
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if "NamedTuple" in bases or any("dataclass" in decorator for decorator in decorators):
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
        return Signature({ast.unparse(f.target): ast.unparse(f.annotation) for f in fields}, False)
    return _inherited(module, bases, hops)


def _inherited(module: str, bases: list[str], hops: int) -> Signature | None:
    """The first base class's constructor; a class without bases takes no argument."""
    if not bases:
        return Signature({}, False)
    if hops == 0 or not bases[0].isidentifier():
        return None
    try:
        found = _find(module, bases[0], hops - 1)
    except UnknownTarget:
        return None
    return None if found is None else _signature(*found, hops - 1)
