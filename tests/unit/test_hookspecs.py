"""Every hook is documented and called as documented; importing our names costs nobody anything."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import backprop_core
from backprop_core import hookspecs

CORE = Path(backprop_core.__file__).parent
HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("backprop_")}
ASKED_BY = {"ask", "tell", "parts"}
"""The methods of Plugins and Observers that call a hook by its name."""


def documented(name: str) -> str:
    return inspect.getdoc(HOOKS[name]) or ""


@cache
def calls() -> frozenset[tuple[str, frozenset[str], str]]:
    """Every call of a hook in the core: its name, the arguments that are given, and the place."""
    return frozenset(_calls())


def _calls() -> Iterator[tuple[str, frozenset[str], str]]:
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            first = node.args[0]
            is_hook = isinstance(first, ast.Constant) and str(first.value).startswith("backprop_")
            if node.func.attr in ASKED_BY and is_hook and isinstance(first, ast.Constant):
                given = frozenset(keyword.arg or "**" for keyword in node.keywords)
                yield str(first.value), given, f"{path.name}:{node.lineno}"


# The hooks -------------------------------------------------------------------------------------


def test_the_hooks_are_those_of_the_design() -> None:
    assert (
        list(HOOKS)
        == (
            "backprop_options backprop_commands backprop_configure backprop_storage_backend backprop_launcher "
            "backprop_framework backprop_gpu_probe backprop_event_parser backprop_find_checkpoint backprop_admit "
            "backprop_select_gpu backprop_environment backprop_run_started backprop_run_events backprop_govern "
            "backprop_run_paused backprop_run_continued backprop_run_finished backprop_status_report "
            "backprop_unconfigure"
        ).split()
    )


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_says_in_a_sentence_what_it_is_for_and_what_happens_on_an_error(name: str) -> None:
    text = documented(name)
    assert text.splitlines()[0].endswith(".")
    assert text.count(":on error: ") == 1
    assert text.partition(":on error: ")[2].strip().endswith(".")


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_documents_each_parameter_in_order_and_what_it_returns(name: str) -> None:
    text = documented(name)
    signature = inspect.signature(HOOKS[name])
    named = [line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith(":param ")]
    assert named == list(signature.parameters)
    assert (":returns: " in text) == (signature.return_annotation != "None")


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_called_somewhere_in_the_core(name: str) -> None:
    assert name in {called for called, _, _ in calls()}


def test_whoever_calls_a_hook_gives_it_exactly_its_arguments() -> None:
    wrong = [
        f"{place}: {name} is given {sorted(given)}"
        for name, given, place in calls()
        if given != frozenset(inspect.signature(HOOKS[name]).parameters)
    ]
    assert wrong == []


def test_a_spec_is_never_called_itself() -> None:
    for spec in HOOKS.values():
        with pytest.raises(NotImplementedError):
            spec(*inspect.signature(spec).parameters)


# What plugin authors import --------------------------------------------------------------------


def names_for_type_checkers() -> dict[str, str]:
    """What the TYPE_CHECKING block imports: name to module."""
    found: dict[str, str] = {}
    for node in ast.parse((CORE / "__init__.py").read_bytes()).body:
        if isinstance(node, ast.If):
            for one in node.body:
                if isinstance(one, ast.ImportFrom) and one.level:
                    found |= {alias.name: str(one.module) for alias in one.names}
    return found


def test_the_exported_names_are_declared_alike_in_all_three_places() -> None:
    assert names_for_type_checkers() == backprop_core._HOME_OF
    assert set(backprop_core.__all__) == {*backprop_core._HOME_OF, "__version__"}
    assert dir(backprop_core) == sorted(backprop_core.__all__)


@pytest.mark.parametrize("name", backprop_core.__all__)
def test_each_exported_name_is_there_and_is_the_one_of_its_module(name: str) -> None:
    value = getattr(backprop_core, name)
    home = backprop_core._HOME_OF.get(name)
    if home is not None:
        assert value is getattr(sys.modules[f"backprop_core.{home}"], name)


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        backprop_core.Trainer  # noqa: B018 - looking is the test


# What importing costs --------------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter loads for a statement."""
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    return set(done.stdout.decode().split())


def foreign(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("statement", "ours"),
    [
        ("import backprop_core", {"backprop_core"}),
        ("import backprop_core.script", {"backprop_core", "backprop_core.script"}),
        ("from backprop_core.script import report", {"backprop_core", "backprop_core.script"}),
        ("import backprop_core.keeper", {"backprop_core", "backprop_core.keeper"}),
    ],
)
def test_importing_what_scripts_and_keepers_use_loads_nothing_else(statement: str, ours: set[str]) -> None:
    modules = loaded_by(statement)
    assert {name for name in modules if name.startswith("backprop")} == ours
    assert foreign(modules) == {"backprop_core"}


def test_the_script_helper_does_not_even_import_what_it_may_never_need() -> None:
    assert (
        loaded_by("import backprop_core.script") & {"typing", "json", "select", "subprocess", "re"} == set()
    )


def test_what_plugins_import_loads_no_command_line_no_display_and_no_gpu_library() -> None:
    modules = loaded_by("from backprop_core import *")
    heavy: set[Any] = {"typer", "rich", "psutil", "pynvml", "cpuinfo", "tomli_w", "backprop_builtin"}
    assert foreign(modules) & heavy == set()
    assert not {name for name in modules if name.startswith("backprop_core.cli")}
