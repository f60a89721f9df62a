"""Write the reference pages from the code: the command line, the settings, the hooks, the parts and the records.

python docs/generate_reference.py           writes docs/reference/*.md
python docs/generate_reference.py --check   exits 1 when one of them is not what it would write
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from reference_from_code import parts as part_pages
from reference_from_code import record_pages

from backprop_core import ExitCode, hookspecs
from backprop_core.cli.app import COMMANDS, HIDDEN, build_app
from backprop_core.cli.declared import SHORT, UNITS
from backprop_core.plugin_options import declared
from backprop_core.plugin_sources import Wanted, load
from backprop_core.settings import DECLARED, Setting

REFERENCE = Path(__file__).with_name("reference")
COMMAND = "python docs/generate_reference.py"
GENERATED = f"<!-- Written by `{COMMAND}` from the code; a change here is overwritten. -->"

# --- the command line -------------------------------------------------------------------------------

EXIT_CODES = {
    ExitCode.OK: "The script completed, or its time box ended: that is the promise, not a failure.",
    ExitCode.ERROR: "Backprop itself could not do what was asked, such as writing a settings file, or `doctor` has "
    "left something to you.",
    ExitCode.USAGE: "The command line, a settings file or a plugin that was asked for is wrong.",
    ExitCode.NOT_FOUND: "The script, the run or the checkpoint given with `-r` does not exist.",
    ExitCode.REFUSED: "The Governor did not let the run start, or stopped it. Try later.",
    ExitCode.INTERRUPTED: "Ctrl-C stopped it.",
    ExitCode.STOPPED: "`backprop stop`, or SIGTERM to `backprop`, stopped it.",
}
TAKES_SCRIPT_ARGUMENTS = {"run", "resume"}
COMMAND_LINE_INTRODUCTION = """\
# The command line

RUN is a run's id, or its name (the newest run of that name), or the beginning of an id that no other id
shares; `last` is the newest run. Options may stand before or after SCRIPT or RUN; what stands after `--`
belongs to the script.

## Global options

They stand before the command; `run` and `resume` take them after it, too."""
EXIT_CODES_INTRODUCTION = """\
## Exit codes

A script that fails hands on its own code; one that a signal ended gives 128 + the signal's number."""


def command_line() -> str:
    """Write the page of commands, options and exit codes."""
    assert set(EXIT_CODES) == set(ExitCode)
    group: Any = typer.main.get_command(build_app(None))
    return page(
        COMMAND_LINE_INTRODUCTION,
        table(["option", "meaning"], [option_row(each) for each in options_of(group)]),
        *commands_in(group),
        EXIT_CODES_INTRODUCTION,
        table(["code", "meaning"], [[f"{code:d}", text] for code, text in EXIT_CODES.items()]),
    )


def commands_in(group: Any, parents: Sequence[str] = ()) -> Iterator[str]:
    """Write each command, the ones inside it after it."""
    names = [name for name in COMMANDS if name not in HIDDEN] if not parents else list(group.commands)
    for name in names:
        command = group.commands[name]
        words = [*parents, name]
        yield f"## backprop {' '.join(words)}"
        yield "```text\n" + usage(command, words) + "\n```"
        yield command.help or COMMANDS[name]
        arguments = [each for each in command.params if each.param_type_name == "argument" and each.help]
        if arguments:
            yield table(["argument", "meaning"], [[f"`{metavar(each)}`", each.help] for each in arguments])
        if found := options_of(command):
            yield table(["option", "meaning"], [option_row(each) for each in found])
        if hasattr(command, "commands"):
            yield from commands_in(command, words)


def usage(command: Any, words: Sequence[str]) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    shown = [metavar(each) if each.required else f"[{metavar(each)}]" for each in arguments]
    if hasattr(command, "commands"):
        shown.append(f"[{'|'.join(command.commands)}]")
    options = ["[OPTIONS]"] if options_of(command) else []
    rest = ["[-- SCRIPT-ARGS]"] if words[-1] in TAKES_SCRIPT_ARGUMENTS else []
    return " ".join(["backprop", *words, *shown, *options, *rest])


def options_of(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "option" and not each.hidden]


def option_row(option: Any) -> list[str]:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len))
    amount = "" if option.is_flag else f" `{metavar(option)}`"
    several = " May be given several times." if option.multiple else ""
    return [names + amount, option.help.replace("\\[", "[") + several]


def metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


# --- the settings -----------------------------------------------------------------------------------


SETTINGS_INTRODUCTION = """\
# The settings

Each setting has one meaning and several spellings. Later sources win: the default, the user-wide file
`~/.backprop/config.toml`, the project's file, the environment, `--set` and the flags. `backprop config show`
prints every value with where it comes from. An unknown name and a value that does not fit are errors.

JSON files (`backprop.config.json`, `.backprop.json`) use the name that heads each section; TOML files
(`backprop.toml`, `[tool.backprop]` in `pyproject.toml`, `config.toml`) the one with underscores. A dot stands
for a table: `gpu.maxTempC` is `maxTempC` in the object `gpu`. `--set` takes both spellings."""
PLUGIN_OPTIONS = """\
## Options of plugins

An option that a plugin declares is a setting `plugin.<plugin>.<option>`, a flag `--<option>` of `run` and `resume`, and
a variable `BACKPROP_PLUGIN_<PLUGIN>_<OPTION>`. Values are checked as any others; the option may be written with dashes,
underscores or in camelCase. `<plugin>` is the plugin's name, or the last part of a module's;
`backprop_plugins` for a file of that name. `backprop config show` lists them with their values, `backprop run --help`
with their meaning. Settings of a plugin that is not installed, or declares no options, are left alone."""


def settings() -> str:
    """Write the page of settings, with every name that each goes by."""
    known = [*DECLARED.values(), *declared(load(Wanted(with_others=False))).values()]
    rows = [[f"[`{each.key}`](#{anchor(each)})", default(each), each.help] for each in known]
    return page(
        SETTINGS_INTRODUCTION,
        table(["setting", "default", "meaning"], rows),
        *(section(each) for each in known),
        PLUGIN_OPTIONS,
    )


def section(setting: Setting) -> str:
    unit = UNITS.get(setting.key)
    names = [name for name in (SHORT.get(setting.flag or ""), setting.flag) if name]
    flag = ", ".join(f"`{name}`" for name in names) + (f" `{unit}`" if unit and names else "")
    return "\n".join(
        [
            f"## {setting.key}",
            "",
            setting.help,
            "",
            f"- must be: {setting.expects}",
            f"- default: {default(setting)}",
            f"- TOML: `{setting.snake}`",
            f"- environment: `{setting.variable}`",
            f"- flag: {flag or 'none; use `--set`'}",
        ]
    )


def anchor(setting: Setting) -> str:
    """Name a section as GitHub and most others do."""
    return setting.key.lower().replace(".", "")


def default(setting: Setting) -> str:
    match setting.default:
        case None:
            return "none"
        case ():
            return "none"
        case bool():
            return f"`{str(setting.default).lower()}`"
        case _:
            return f"`{setting.default}`"


# --- the hooks --------------------------------------------------------------------------------------

BANNER = re.compile(r"^# -{20,}\n# (?P<title>[^\n]+)\n# -{20,}$", re.MULTILINE)
FIELD = re.compile(r"^:(param (?P<name>\w+)|returns|on error):", re.MULTILINE)
HOOKS_INTRODUCTION = """\
# The hooks

In the order in which a run meets them. A plugin is a module (or an object) that implements some of them: a
function of the hook's name, marked with `@hookimpl`, that takes the arguments it uses and no others.

```python
from backprop_core import Refusal, hookimpl


@hookimpl
def backprop_admit(request, machine):
    if request.limits.max_run_minutes > 60:
        return Refusal("time box: more than an hour")
```

Put this into `backprop_plugins.py` beside your script or at the project's root; or into a module that
`--plugin MODULE` or the setting `plugins` names; or into a package with an entry point in the group
`backprop`. The newest is asked first: your own files, then named modules, then other packages, then the
built-in plugins. [The records](records.md) (`RunRequest`, `Machine`, ...) and [the parts](parts.md) (`GpuProbe`,
`Framework`, ...) are imported from `backprop_core`.

What happens when an implementation raises stands at each hook ("on error"). The script is never taken down by
one. Arguments with defaults, hook wrappers, `async` functions, those with a `yield` and hooks that do not exist are
refused; the last is only a warning in `backprop_plugins.py`."""


def hooks() -> str:
    """Write the page of hooks from the docstrings of hookspecs.py, in the order in which a run meets them."""
    source = Path(hookspecs.__file__).read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    banners = {source.count("\n", 0, found.start()) + 1: found["title"] for found in BANNER.finditer(source)}
    parts: dict[int, str] = {line: f"## {title}" for line, title in banners.items()}
    parts |= {node.lineno: hook(node) for node in functions if node.name.startswith("backprop_")}
    return page(HOOKS_INTRODUCTION, *(parts[line] for line in sorted(parts)))


def hook(node: ast.FunctionDef) -> str:
    text = ast.get_docstring(node) or ""
    signature = (
        f"def {node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns or ast.Constant(None))}: ..."
    )
    about, *fields = split_fields(text)
    lines = [f"- {named(title)}: {flowing(body)}" for title, body in fields]
    return "\n\n".join([f"### {node.name}", f"```python\n{signature}\n```", about[1], "\n".join(lines)])


def split_fields(text: str) -> list[tuple[str, str]]:
    """Cut a docstring into its text and its fields: ("", text), ("param run", ...), ("returns", ...)."""
    starts = list(FIELD.finditer(text))
    ends = [*(found.start() for found in starts), len(text)]
    found = [("", text[: ends[0]].strip())]
    for start, end in zip(starts, ends[1:], strict=True):
        found.append((start[1], text[start.end() : end].strip()))
    return found


def named(field: str) -> str:
    return f"`{field.removeprefix('param ')}`" if field.startswith("param ") else field


def flowing(text: str) -> str:
    return " ".join(text.split())


# --- pages ------------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_line,
    "settings.md": settings,
    "hooks.md": hooks,
    "parts.md": lambda: page(*part_pages()),
    "records.md": lambda: page(*record_pages()),
}


def page(*parts: str) -> str:
    return "\n\n".join([GENERATED, *parts]) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def stale_pages() -> list[Path]:
    """Return the pages that are not what the code says."""
    paths = {REFERENCE / name: write() for name, write in PAGES.items()}
    return [path for path, text in paths.items() if not path.is_file() or path.read_text("utf-8") != text]


def main(arguments: Sequence[str]) -> int:
    stale = stale_pages()
    if "--check" in arguments:
        for path in stale:
            print(f"{path} is not what the code says; write it with: {COMMAND}")
        return 1 if stale else 0
    REFERENCE.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(PAGES[path.name](), "utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
