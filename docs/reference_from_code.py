"""Pages about parts and records, from the docstrings and annotations of the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import backprop_core
from backprop_core import errors, interfaces, records, states

PARTS_INTRODUCTION = """\
# The parts

What a plugin can bring, beside single hooks: each is a class of yours with these methods and attributes. They are
Protocols: a class needs the right methods and no base class. `name` is what people type."""
RECORDS_INTRODUCTION = """\
# The records

What hooks and parts are given, and what they answer with; all are imported from `backprop_core`. They are frozen:
once made, nothing in them changes, and `msgspec.structs.replace` makes one that differs. They are built by keyword.
`None` means unknown, never 0. Memory is in MiB (`_mb`) or GiB (`_gb`), heat in degrees Celsius (`_c`), shares in
percent from 0 to 100 (`_pct`), moments are in milliseconds since 1970 (UTC)."""
_FIELD = re.compile(r"^:(\w+(?: [\w ]+)?):", re.MULTILINE)


def parts() -> Iterator[str]:
    """Write the parts, in the order of interfaces.py."""
    yield PARTS_INTRODUCTION
    source = inspect.getsource(interfaces)
    body = ast.parse(source).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef):
            yield part(node, source)
        elif isinstance(node, ast.Assign) and (about := text_of(after)):
            yield f"## {name_of(node)}\n\n```python\n{ast.unparse(node)}\n```\n\n{prose(about)}"


def part(node: ast.ClassDef, source: str) -> str:
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    fields = fields_of(node, source)
    code = [
        f"class {node.name}:",
        *fields,
        *([""] if fields else []),
        *(signature(each, source) for each in methods),
    ]
    lines = [f"- **`{each.name}`**: {in_one_line(ast.get_docstring(each) or '')}" for each in methods]
    return "\n\n".join(
        [
            f"## {node.name}",
            prose(ast.get_docstring(node) or ""),
            "```python\n" + "\n".join(code) + "\n```",
            "\n".join(lines),
        ]
    )


def record_pages() -> Iterator[str]:
    """Write the records that plugins import, in the order of records.py, then states and errors."""
    yield RECORDS_INTRODUCTION
    exported = set(backprop_core.__all__)
    source = inspect.getsource(records)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in exported:
            yield record(node, source)
        elif isinstance(node, ast.Assign) and name_of(node) in exported and not name_of(node).isupper():
            yield f"## {name_of(node)}\n\n```python\n{ast.unparse(node)}\n```"
    source = inspect.getsource(states)
    [state] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    yield record(state, source)
    yield "## Errors\n\n" + prose(inspect.getdoc(errors) or "")


def record(node: ast.ClassDef, source: str) -> str:
    code = [f"class {node.name}:", *fields_of(node, source)]
    inherited = [ast.unparse(base) for base in node.bases if ast.unparse(base) == "Reason"]
    if inherited:
        code.insert(1, "    reason: str")
    told = [
        f"- **`{each.name}`**: {in_one_line(ast.get_docstring(each) or '')}"
        for each in node.body
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and ast.get_docstring(each)
    ]
    shown = "```python\n" + "\n".join(code) + "\n```" if len(code) > 1 else ""
    about = [f"## {node.name}", prose(ast.get_docstring(node) or ""), shown, "\n".join(told)]
    return "\n\n".join(piece for piece in about if piece)


def fields_of(node: ast.ClassDef, source: str) -> list[str]:
    """Return the fields as they stand in the class, those of an enumeration too."""
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign | ast.Assign)]
    written = [ast.get_source_segment(source, each) or "" for each in fields]
    return [f"    {text}" for text in written if not text.startswith("_")]


def signature(node: ast.FunctionDef, source: str) -> str:
    """Return the head of a method as it stands in the class, with nothing for a body."""
    head = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    return "\n".join(head) + " ..."


def name_of(node: ast.Assign) -> str:
    return ast.unparse(node.targets[0])


def text_of(node: ast.stmt | None) -> str | None:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return inspect.cleandoc(str(node.value.value)) if is_text else None  # type: ignore[union-attr]


def prose(text: str) -> str:
    """Turn a docstring into Markdown: literal blocks are fenced, fields become a list."""
    fenced = re.sub(
        r"^::\n\n((?:    [^\n]*\n|\n)+)",
        lambda found: "```text\n" + inspect.cleandoc(found[1]) + "\n```\n\n",
        text + "\n",
        flags=re.MULTILINE,
    )
    about, *fields = re.split(r"\n(?=:\w)", fenced.strip())
    listed = "\n".join("- " + _FIELD.sub(r"\1:", " ".join(each.split())) for each in fields)
    return f"{about.strip()}\n\n{listed}".strip()


def in_one_line(text: str) -> str:
    return " ".join(_FIELD.sub(r"\1:", text).split())
