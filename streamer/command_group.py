"""Commands that other packages add to `scanwise` by the entry-point group ``scanwise.commands``.

They are imported when they are called, not when the list of commands is printed: their help line is read from
the source, so that `scanwise --help` stays fast and works where their packages are not installed.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from streamer.exits import USAGE

GROUP = "scanwise.commands"
_EXTRAS = {"simulator": "simulator", "streamer": "daemon", "models": "train"}


class CommandGroup(TyperGroup):
    """The program's own commands, and those of the entry points."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names: our own first."""
        own = super().list_commands(ctx)
        return own + sorted(p.name for p in entry_points(group=GROUP) if p.name not in own)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one of our own, or a stand-in that imports the other when it runs."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        point = next(iter(entry_points(group=GROUP, name=cmd_name)), None)
        return _Later(point) if point is not None else None


class _Later(TyperCommand):
    """Stands in for a command that is not imported yet."""

    def __init__(self, point: EntryPoint) -> None:
        super().__init__(point.name, short_help=_summary(point), help=_summary(point))
        self._point = point

    def make_context(self, *args: Any, **keys: Any) -> Any:
        """Import the command, and let it make its own context."""
        return _load(self._point).make_context(*args, **keys)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context belongs to."""
        return ctx.command.invoke(ctx)


def _load(point: EntryPoint) -> Any:
    try:
        loaded = point.load()
    except ModuleNotFoundError as error:
        package = point.module.partition(".")[0]
        extra = _EXTRAS.get(package, "all")
        text = f"scanwise {point.name} needs scanwise[{extra}] (there is no package {error.name!r}): "
        typer.echo(f"{text}pip install 'scanwise[{extra}]'", err=True)
        raise typer.Exit(USAGE) from error
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(point.name)(loaded)
    return typer.main.get_command(alone)


def _summary(point: EntryPoint) -> str:
    """Return the first line of a function's docstring, or a group's help, without importing its module."""
    try:
        spec = importlib.util.find_spec(point.module)
        tree = ast.parse(Path(spec.origin).read_text()) if spec is not None and spec.origin else None
    except (ImportError, OSError, SyntaxError):
        return "(not installed)"
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == point.attr for t in node.targets):
            return _help(node.value)
    return ""


def _help(value: ast.expr) -> str:
    """Return what a call like ``Typer(help="...")`` says."""
    said = value.keywords if isinstance(value, ast.Call) else []
    texts = [k.value.value for k in said if k.arg == "help" and isinstance(k.value, ast.Constant)]
    return str(texts[0]) if texts else ""
