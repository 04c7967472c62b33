"""Mutants of a module: its tree, changed in one place, as code that can run.

What is changed: comparisons, arithmetic, `and` and `or`, `not`, numbers, truth values, names and
other texts, min and max, any and all, conditions, and `+=`; statements that do something, raises
and early returns are left out, `break` becomes `continue`, a keyword argument is not given. What no
behaviour hangs on stays: annotations, docstrings, decorators, imports, asserts, and what a raise
says.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LEFT_OUT = (ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)
_FIELDS_LEFT_OUT = ("annotation", "returns", "decorator_list", "type_params")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        line: of the change, from 1 on.
        column: of it, from 0 on.
        old: what is there.
        new: what it becomes.
        lines: of the statement around it: a test that runs none of them cannot notice; None: it
            runs when the module is imported.
        code: of the whole module.
    """

    line: int
    column: int
    old: str
    new: str
    lines: range | None
    code: CodeType

    @property
    def name(self) -> str:
        """What tells it from the others of its module."""
        return f"{self.line}:{self.column} `{self.old}` -> `{self.new}`"


def mutants(source: str, path: str, only: tuple[str, ...] = ()) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its text.

    Args:
        source: the module's text.
        path: its file, for tracebacks.
        only: names of the functions and classes of the module that are changed; none: all of it.
    """
    tree = ast.parse(source)
    seen = set()
    for place in _places(tree, None, only):
        for new in _changes(place.node):
            if isinstance(place.node, ast.Return) and not place.early:
                continue
            mutant = _mutant(tree, place, new, path)
            if mutant.name not in seen:
                seen.add(mutant.name)
                yield mutant


@dataclass(frozen=True)
class _Place:
    """Where a node hangs: `parent.field`, or `parent.field[index]`."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    lines: range | None

    @property
    def early(self) -> bool:
        """Whether what comes after a return, in the function, can be reached without it."""
        return not isinstance(self.parent, ast.FunctionDef)

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _mutant(tree: ast.Module, place: _Place, new: ast.AST, path: str) -> Mutant:
    old = place.node
    ast.copy_location(new, old)
    ast.fix_missing_locations(new)
    place.put(new)
    try:
        code = compile(tree, path, "exec", dont_inherit=True)
    finally:
        place.put(old)
    line, column = getattr(old, "lineno", 0), getattr(old, "col_offset", 0)
    return Mutant(line, column, _shown(old), _shown(new), place.lines, code)


def _shown(node: ast.AST) -> str:
    """The first line of a node's text."""
    return ast.unparse(node).splitlines()[0]


def _places(node: ast.AST, lines: range | None, only: tuple[str, ...] = ()) -> Iterator[_Place]:
    """Places below a node that may be changed; `lines` are of the statement that it is in."""
    for field, value in ast.iter_fields(node):
        if field in _FIELDS_LEFT_OUT:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _is_left_out(node, field, child):
                continue
            if only and isinstance(node, ast.Module) and getattr(child, "name", None) not in only:
                continue
            here = lines
            if isinstance(child, ast.stmt):
                # What a module or a class consists of runs when it is imported, whoever imports.
                here = None if isinstance(node, ast.Module | ast.ClassDef) else _header(child)
            yield _Place(child, node, field, index if isinstance(value, list) else None, here)
            if not (isinstance(node, ast.Raise) and field == "exc"):
                yield from _places(child, here)


def _is_left_out(parent: ast.AST, field: str, child: ast.AST) -> bool:
    if isinstance(child, _LEFT_OUT) or (isinstance(parent, ast.Raise) and field == "exc"):
        return True
    if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
        return True
    if isinstance(child, ast.AnnAssign) and ast.unparse(child.annotation) == "TypeAlias":
        return True
    if isinstance(parent, ast.Module) and isinstance(child, ast.Assign):
        # A type, such as Callable[[int], str].
        return isinstance(child.value, ast.Subscript)
    # Docstrings, also those of constants.
    return isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)


def _header(statement: ast.stmt) -> range:
    """Lines of a statement without those of the statements in it."""
    end = statement.end_lineno or statement.lineno
    inner = [
        part.lineno
        for field in _BLOCKS
        for part in getattr(statement, field, [])
        if isinstance(part, ast.stmt | ast.ExceptHandler)
    ]
    return range(statement.lineno, max(min([end + 1, *inner]), statement.lineno + 1))


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become."""
    if isinstance(node, ast.stmt):
        yield from _of_statements(node)
    elif isinstance(node, ast.expr):
        yield from _of_expressions(node)


def _of_statements(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete() | ast.Return():
            yield ast.Pass()
        case ast.AugAssign(op=op):
            yield ast.Pass()
            if type(op) in _OPERATORS:
                yield _with(node, op=_OPERATORS[type(op)]())
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.If(test=test) | ast.While(test=test):
            if not isinstance(test, ast.Compare | ast.Constant) and not _is_not(test):
                yield _with(node, test=ast.UnaryOp(ast.Not(), test))


def _of_expressions(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                other = _COMPARISONS[type(op)]()
                yield _with(node, ops=[*ops[:index], other, *ops[index + 1 :]])
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield _with(node, op=_OPERATORS[type(op)]())
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield copy.copy(operand)
        case ast.IfExp(test=test) if not isinstance(test, ast.Compare) and not _is_not(test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Call():
            yield from _of_calls(node)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value):
            yield ast.Constant(f"XX{value}XX")
        case ast.Constant(value=bytes() as value):
            yield ast.Constant(b"XX" + value + b"XX")


def _of_calls(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        yield _with(node, func=ast.Name(_FUNCTIONS[node.func.id], ast.Load()))
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield _with(node, keywords=node.keywords[:index] + node.keywords[index + 1 :])


def _is_not(test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _with(node: ast.AST, **changes: object) -> ast.AST:
    """A copy of a node with other parts."""
    found = copy.copy(node)
    for field, value in changes.items():
        setattr(found, field, value)
    return found
