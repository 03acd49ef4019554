"""The generated parts of the pages in docs/: what the code says of itself, between markers.

    python -m docs.generate          # write them
    python -m docs.generate --check  # exit 1 if a page is out of date

A page has `<!-- NAME -->` and `<!-- /NAME -->` on lines of their own; what stands between them is
the text that `BLOCKS[NAME]` returns.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.main

import flaxcnn
from docs.faults import faults, former
from flaxcnn import errors
from flaxcnn.cli.main import app
from flaxcnn.recipe import (
    augment,
    averages,
    fields,
    layers,
    losses,
    optimizers,
    resize,
    rules,
    schedules,
    splits,
    teachers,
    views,
)
from flaxcnn.recipe.config import GROUPS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flaxcnn"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The packages and modules of flaxcnn/ in the order of imports: one imports only from those before
# it. Within a package the order follows from the imports themselves.
IMPORT_ORDER = (
    "errors", "limits", "fault_points", "activity", "signals", "xla_messages", "recipe", "rng",
    "hardware", "backend", "numerics", "collectives", "data", "records", "reports", "model",
    "augment", "nn", "engine", "trained", "export", "estimator", "studies", "checks", "api",
    "results", "doctor", "bench", "speedrun", "accelerators", "cli", "__main__",
)  # fmt: skip
# A line of Args or Raises: names, and what is said of them.
ITEM = re.compile(r"    ((?:\*{0,2}\w+|\.\.\.)(?:, (?:\*{0,2}\w+|\.\.\.))*): (.*)")
ALIASES = {  # of types in the specifications
    "Size": "int or (int, int)", "Padding": "'valid' or 'same'", "Function": "activation",
    "Init": "initialiser", "ConvInit": "initialiser or 'dirac'",
}  # fmt: skip
# What the public functions take, and what is useful beside them.
MORE_API = {
    "flaxcnn.nn": ("Conv", "BatchNorm", "Dropout"),
    "flaxcnn.export.export": ("export",),
    "flaxcnn.api.check": ("Checked",),
    "flaxcnn.api.epochs": ("Epoch", "Epochs"),
    "flaxcnn.records.index": ("Runs", "Entry"),
    "flaxcnn.records.rate_range": ("RateRange",),
    "flaxcnn.studies.comparison": ("Comparison",),
    "flaxcnn.studies.power": ("Plan",),
    "flaxcnn.engine.saved": ("open_run", "classify", "evaluate_run"),
}


# -- specs: layers, optimizers, schedules, augmentations -------------------------------------------


def members(union: Any) -> tuple[type, ...]:
    """The classes of a union, or of a single class."""
    return typing.get_args(union) if isinstance(union, types.UnionType) else (union,)


def meanings(cls: type) -> dict[str, str]:
    """Field name -> what is declared of it, or else the comment at the end of its line."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for line in inspect.getsource(base).splitlines():
            if match := re.match(r"    (\w+): .*?  # (.+)$", line):
                found[match[1]] = match[2]
    for name, declared in fields.settings(cls):
        found[name] = declared.meaning
    return found


def value(default: Any) -> str:
    """A default as one would write it."""
    if default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(default):
        return f"`{type(default).__name__}()`"
    return f"`{default!r}`"


def annotation(field: dataclasses.Field[Any]) -> str:
    """The type of a field as its source has it, in a table's cell."""
    text = str(field.type).replace(" | ", " or ")
    text = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace(", ", " or "), text)
    for alias, meaning in ALIASES.items():
        text = re.sub(rf"\b{alias}\b", meaning, text)
    return f"`{text}`"


def spec(cls: type) -> str:
    """Heading, docstring and fields of one specification."""
    type_name = f'In JSON and TOML: `"type": "{cls.__name__.lower()}"`.'
    lines = [f"### {cls.__name__}", "", type_name, "", inspect.cleandoc(cls.__doc__ or "")]
    if not (cls.__doc__ or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        raise SystemExit(f"{cls.__name__} has no docstring")
    if rate := getattr(cls, "default_learning_rate", None):
        lines.append(f"\nDefault learning rate: `{rate}`.")
    if own := dataclasses.fields(cls):
        meaning = meanings(cls)
        lines += ["", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{field.name}` | {annotation(field)} | {value(field.default)} "
            f"| {meaning.get(field.name, '')} |"
            for field in own
        ]
    return "\n".join(lines)


def specs(union: Any) -> Callable[[], str]:
    """A block with every class of `union`."""
    return lambda: "\n\n".join(spec(cls) for cls in members(union))


def choices(literal: Any) -> Callable[[], str]:
    """A block with the values of a Literal."""
    return lambda: ", ".join(f"`{each}`" for each in typing.get_args(literal)) + "."


# -- commands --------------------------------------------------------------------------------------


def commands(group: Any = None, prefix: str = "flaxcnn") -> Iterator[tuple[str, Any]]:
    """(words, command) of every command a user can type."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        words = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


def help_text(text: str) -> str:
    """A command's help as Markdown: its examples become a block of code."""
    prose, _, examples = inspect.cleandoc(text).replace("\b", "").partition("\nExample")
    examples = examples.partition(":")[2]
    code = f"\n\n```sh\n{textwrap.dedent(examples.strip(chr(10)))}\n```" if examples else ""
    return prose.strip() + code


def command_list() -> str:
    """A table: each command, linked, and the first sentence of its help."""
    lines = ["| command | what it does |", "|---|---|"]
    for words, command in commands():
        first = inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ")
        lines.append(f"| [`{words}`](#{words.replace(' ', '-')}) | {cell(first)} |")
    return "\n".join(lines)


def command_pages() -> str:
    """Every command with its help, arguments and options."""
    return "\n\n".join(command_section(words, command) for words, command in commands())


def command_section(words: str, command: Any) -> str:
    """One command: help, then a table of its arguments and options."""
    lines = [f"## {words}", "", help_text(command.help), "", "| option | meaning |", "|---|---|"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        metavar = parameter.metavar or ""
        if parameter.param_type_name == "argument":
            names = f"`{metavar or parameter.name.upper()}`"
        else:
            names = ", ".join(f"`{name}`" for name in parameter.opts)
            flag = getattr(parameter, "is_flag", False)
            names += "" if flag else f" `{metavar or parameter.name.upper()}`"
        lines.append(f"| {names.replace('|', chr(92) + '|')} | {cell(parameter.help)} |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text in the cell of a table."""
    return text.replace("\n", " ").replace("|", "\\|")


# -- Python API ------------------------------------------------------------------------------------


def api() -> str:
    """Every public name: signature as in the source, and docstring."""
    names = [(module, name, "flaxcnn") for name, module in sorted(flaxcnn._LAZY.items())]
    names += [(module, name, module) for module, own in MORE_API.items() for name in own]
    return "\n\n".join(api_section(*each) for each in names)


def source_file(module: str) -> Path:
    """The file of a module of the package."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def api_section(module: str, name: str, shown: str) -> str:
    """One function, or a class with its public methods."""
    text = source_file(module).read_text()
    node = next(n for n in ast.parse(text).body if getattr(n, "name", None) == name)
    lines = [f"## {shown}.{name}", ""]
    if isinstance(node, ast.FunctionDef):
        return "\n".join([*lines, signature(node, text), "", docstring(node)])
    assert isinstance(node, ast.ClassDef)
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    if "__init__" in methods:
        code = signature(methods["__init__"], text)
        lines += [re.sub(r"def __init__\(\s*self,", f"{name}(", code).replace("):\n", ")\n"), ""]
    elif fields := [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]:
        code = "".join(f"    {field},\n" for field in fields)
        return "\n".join([*lines, f"```python\n{name}(\n{code})\n```", "", docstring(node)])
    lines.append(docstring(node))
    for method in methods.values():
        if not method.name.startswith("_") and ast.get_docstring(method):
            lines += ["", f"### {name}.{method.name}", "", signature(method, text), "",
                      docstring(method)]  # fmt: skip
    return "\n".join(lines)


def signature(node: ast.FunctionDef, text: str) -> str:
    """The `def` of a function as its source has it, in a block of code."""
    first = node.body[0].lineno - 1
    code = textwrap.dedent("\n".join(text.splitlines()[node.lineno - 1 : first]))
    code = re.sub(r"  # (fmt|noqa|type): .*", "", code)
    return f"```python\n{code.strip()}\n```"


def docstring(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring as Markdown: Args, Raises and Returns as lists, examples as code."""
    lines: list[str] = []
    section = code = False
    code_indent = ""
    for line in (ast.get_docstring(node) or "").splitlines():
        if code and (not line.strip() or not line.startswith(code_indent)):
            lines += ["```"]
            code = False
        if not code and line.lstrip().startswith(">>>"):
            code, code_indent = True, line[: len(line) - len(line.lstrip())]
            lines += ["```pycon"]
        if code:
            lines.append(line.removeprefix(code_indent))
        elif match := re.match(r"(Args|Raises|Returns|Yields|Attributes):$", line):
            section = True
            lines += [f"**{'Arguments' if match[1] == 'Args' else match[1]}**", ""]
        elif section and (match := ITEM.match(line)):
            names = ", ".join(f"`{name}`" for name in re.findall(r"[*\w.]+", match[1]))
            lines.append(f"- {names}: {match[2]}".replace(", `...`", ", ..."))
        elif section and line.startswith("    "):
            lines.append(("  " if lines[-1].startswith(("- ", "  ")) else "") + line.strip())
        else:
            section = section and not line.strip()
            lines.append(line)
    return "\n".join([*lines, "```"] if code else lines)


# -- exit codes, and the map -----------------------------------------------------------------------


def exit_codes() -> str:
    """The exit codes that the errors carry, beside those of success and signals."""
    found = {0: "done", 130: "SIGINT (Ctrl-C): the state was saved, `--resume` continues"}
    own = [cls for cls in vars(errors).values()
           if inspect.isclass(cls) and issubclass(cls, errors.FlaxcnnError)]  # fmt: skip
    for cls in own:
        code = vars(cls).get("exit_code")
        if isinstance(code, int):
            found[code] = inspect.cleandoc(cls.__doc__ or "").split("\n")[0].rstrip(".")
    found[1] = "any other failure, with a message"
    found[75] = (
        "SIGTERM, SIGHUP, SIGUSR1, SIGUSR2: the state was saved; or another process of the run was "
        "lost. Resumable"
    )
    lines = ["| exit code | meaning |", "|---:|---|"]
    return "\n".join([*lines, *(f"| {code} | {found[code]} |" for code in sorted(found))])


def imported_modules(path: str) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, as paths."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            target = name.removeprefix("flaxcnn.").replace(".", "/") + ".py"
            if name.startswith("flaxcnn.") and (PACKAGE / target).is_file():
                yield target


def modules() -> list[str]:
    """Every module of the package, as a path, in the order of imports."""
    files = sorted(
        (str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")
         if path.name != "__init__.py"),
        key=lambda path: (IMPORT_ORDER.index(part_of(path)), path),
    )  # fmt: skip
    ordered: dict[str, None] = {}

    def visit(path: str, part: str, above: tuple[str, ...]) -> None:
        if path in above:
            raise ValueError(f"modules import each other: {' -> '.join((*above, path))}")
        if path not in ordered:
            for target in sorted(set(imported_modules(path))):
                if part_of(target) == part:
                    visit(target, part, (*above, path))
            ordered[path] = None

    for path in files:
        visit(path, part_of(path), ())
    return list(ordered)


def part_of(path: str) -> str:
    """The package, or the module at the top, that a file belongs to."""
    return path.split("/")[0].removesuffix(".py")


def source_map() -> str:
    """The tree of the package in the order of imports, with the first line of each docstring."""
    lines, shown = ["| file | what it is |", "|---|---|"], ""
    for path in modules():
        folder = path.rpartition("/")[0]
        if folder != shown and folder:
            lines.append(f"| **`{folder}/`** | **{cell(summary(f'{folder}/__init__.py'))}** |")
        shown = folder
        lines.append(f"| `{path}` | {cell(summary(path))} |")
    return "\n".join(lines)


def summary(path: str) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse((PACKAGE / path).read_text()))
    return (text or "").splitlines()[0]


BLOCKS: dict[str, Callable[[], str]] = {
    "layers": specs(layers.Layer),
    "activations": choices(layers.Function),
    "initialisers": choices(layers.Init),
    "settings": lambda: fields.table(*GROUPS),
    "optimizers": specs(optimizers.Optimizer),
    "losses": specs(losses.LossSpec),
    "metrics": specs(losses.MetricSpec),
    "schedules": specs(schedules.Schedule),
    "clipping": specs(rules.Clip),
    "views": specs(views.Views),
    "averages": specs(averages.Average),
    "distillation": specs(teachers.Distill),
    "rules": specs(rules.Rates | rules.Decays | rules.Fade | rules.Lookahead),
    "augmentations": specs(augment.Augment),
    "resize-spec": specs(resize.Resize),
    "splits": specs(splits.Split),
    "commands": command_list,
    "command-pages": command_pages,
    "api": api,
    "exit codes": exit_codes,
    "faults": faults,
    "former": former,
    "map": source_map,
}


def with_blocks(text: str) -> str:
    """A page with every generated part made again."""
    for name, block in BLOCKS.items():
        part = re.compile(rf"^<!-- {name} -->$.*?^<!-- /{name} -->$", re.M | re.S)
        if part.search(text):
            made = f"<!-- {name} -->\n\n{block()}\n\n<!-- /{name} -->"
            text = part.sub(lambda _, made=made: made, text)
    return text


def main() -> None:
    """Write the pages, or with --check say which of them are out of date."""
    check, stale = "--check" in sys.argv[1:], []
    for page in PAGES:
        text = page.read_text()
        if (new := with_blocks(text)) != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new)
    verb = "out of date" if check else "written"
    print(f"{verb}: {', '.join(stale)}" if stale else "every page is current")
    if check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
