"""Plugins are found, ordered, blocked, trusted or not, and loaded when one of their hooks is asked."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
import pytest

from backprop_core import PluginError, hookimpl
from backprop_core.hookspecs import PROJECT
from backprop_core.implementations import marked
from backprop_core.plugin_sources import (
    LOCAL_NAME,
    EntryPoint,
    Wanted,
    find_entry_points,
    load,
    untrusted,
)
from backprop_core.plugin_sources import bring as load_it
from backprop_core.plugins import OWN_DISTRIBUTION, Plugins, PluginState

HOOK = "from backprop_core import hookimpl\n@hookimpl\ndef backprop_status_report():\n    return {!r}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def install(site: Path, distribution: str, points: str, folder: str = "") -> None:
    metadata = site / (folder or f"{distribution}-1.2.dist-info")
    metadata.mkdir()
    (metadata / "entry_points.txt").write_text(points)


def state(plugins: Plugins, name: str) -> PluginState:
    (found,) = [state for state in plugins.states if state.name == name]
    return found


def reports(plugins: Plugins) -> list[Any]:
    return [answer.value for answer in plugins.ask("backprop_status_report", settings=None)]


# Finding ---------------------------------------------------------------------------------------


def test_entry_points_are_read_from_the_metadata_of_distributions_ours_first(tmp_path: Path) -> None:
    install(
        tmp_path,
        "aaa",
        "[console_scripts]\nx = y\n\n[backprop]\n# a comment\n; another\nnotify=aaa.it:plugin\n"
        "two = aaa.two [backprop_govern,backprop_admit ]\n",
    )
    install(tmp_path, "backprop_core", "[backprop]\nram = builtin.ram\n[other]\nz = z\n")
    install(tmp_path, "none", "[console_scripts]\nbackprop = x\n")
    install(tmp_path, "old", "[backprop]\nold = old\n", "Old_Style-2.0.egg-info")
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "broken-1.dist-info" / "entry_points.txt").write_bytes(b"[backprop]\n\xff = x\n")
    assert find_entry_points([str(tmp_path), str(tmp_path / "missing"), str(tmp_path)]) == [
        EntryPoint(name="ram", target="builtin.ram", distribution="backprop-core", version="1.2"),
        EntryPoint(name="old", target="old", distribution="old-style", version="2.0"),
        EntryPoint(name="notify", target="aaa.it:plugin", distribution="aaa", version="1.2"),
        EntryPoint(
            name="two",
            target="aaa.two",
            distribution="aaa",
            version="1.2",
            hooks=("backprop_govern", "backprop_admit"),
        ),
    ]


def test_of_two_versions_of_a_distribution_the_first_on_the_path_counts(tmp_path: Path) -> None:
    for number, folder in enumerate(["first", "second"]):
        (tmp_path / folder).mkdir()
        install(tmp_path / folder, "x", f"[backprop]\nx = v{number}\n", f"x-{number}.0.dist-info")
    found = find_entry_points([str(tmp_path / "first"), str(tmp_path / "second")])
    assert [(point.target, point.version) for point in found] == [("v0", "0.0")]


def test_our_own_built_in_plugins_are_found_through_our_own_distribution() -> None:
    plugins = load(Wanted(with_others=False))
    assert {state.distribution for state in plugins.states} == {"backprop-core"}
    assert {"json", "local", "nvml", "ram", "json-lines"} <= {state.name for state in plugins.states}
    assert all(state.state == "active" and state.hooks and state.path for state in plugins.states)


# Loading ---------------------------------------------------------------------------------------


def test_later_sources_are_asked_first(site: Path, tmp_path: Path) -> None:
    install(site, "other", "[backprop]\nother = other_plugin\n")
    (site / "other_plugin.py").write_text(HOOK.format("entry point"))
    (site / "named_plugin.py").write_text(HOOK.format("named"))
    root, beside = tmp_path / "project", tmp_path / "project" / "src"
    beside.mkdir(parents=True)
    for folder in (root, beside):
        (folder / LOCAL_NAME).write_text(HOOK.format(folder.name))
    plugins = load(Wanted(modules=("named_plugin",), folders=(root, beside, root)))
    assert reports(plugins) == ["src", "project", "named", "entry point"]
    assert [one.name for one in plugins.states[-4:]] == [
        "other",
        "named_plugin",
        str(root / LOCAL_NAME),
        str(beside / LOCAL_NAME),
    ]
    assert state(plugins, "other") == PluginState(
        name="other",
        state="active",
        path=str(site / "other_plugin.py"),
        distribution="other",
        version="1.2",
        hooks=("backprop_status_report",),
    )


def test_blocked_plugins_are_not_imported_and_are_listed(site: Path, tmp_path: Path) -> None:
    install(site, "other", "[backprop]\nother = does.not.exist\n")
    (tmp_path / LOCAL_NAME).write_text("1 / 0")
    blocked = frozenset({"other", "missing_module", "backprop_plugins"})
    plugins = load(Wanted(modules=("missing_module",), folders=(tmp_path,), blocked=blocked))
    names = ("other", "missing_module", str(tmp_path / LOCAL_NAME))
    assert [state(plugins, name).state for name in names] == ["blocked"] * 3
    assert plugins.failures == []


def test_other_distributions_can_be_left_out(site: Path) -> None:
    install(site, "other", "[backprop]\nother = does.not.exist\n")
    assert "other" not in [state.name for state in load(Wanted(with_others=False)).states]


def test_an_entry_point_may_name_an_object_in_a_module(site: Path) -> None:
    install(site, "other", "[backprop]\nother = other_plugin:it\n")
    (site / "other_plugin.py").write_text(
        "from backprop_core import hookimpl\nclass It:\n    @hookimpl\n"
        "    def backprop_status_report(self):\n        return 'object'\nit = It()\n"
    )
    assert reports(load(Wanted())) == ["object"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def", "SyntaxError: "),
        (HOOK.format("x").replace("_status_", "_statu_"), "did you mean backprop_status_report?"),
    ],
)
def test_a_broken_entry_point_is_a_named_failure_but_fatal_where_it_was_asked_for(
    site: Path, source: str, error: str
) -> None:
    install(site, "other", "[backprop]\nother = other_plugin\n")
    (site / "other_plugin.py").write_text(source)
    plugins = load(Wanted())
    assert state(plugins, "other").state == "failed"
    (failure,) = plugins.failures
    assert failure.plugin == "other"
    assert error in failure.error
    assert error in str(failure)
    with pytest.raises(PluginError, match="other_plugin") as caught:
        load(Wanted(modules=("other_plugin",), blocked=frozenset({"other"})))
    assert error in caught.value.message


def test_a_named_module_is_found_in_the_folders_to_search_which_leave_the_path_again(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "only_here_plugin.py").write_text(HOOK.format("here"))
    before = list(sys.path)
    wanted = Wanted(modules=("only_here_plugin",), search=(tmp_path / "missing", folder))
    assert reports(load(wanted)) == ["here"]
    assert sys.path == before
    del sys.modules["only_here_plugin"]
    folder.chmod(0o777)
    with pytest.raises(PluginError, match="only_here_plugin does not load"):
        load(wanted)


def test_a_local_file_that_does_not_load_is_a_failure_and_its_unknown_hook_a_warning(tmp_path: Path) -> None:
    local = tmp_path / LOCAL_NAME
    local.write_text("import nothing_of_that_name")
    plugins = load(Wanted(folders=(tmp_path,)))
    assert state(plugins, str(local)).state == "failed"
    assert [failure.plugin for failure in plugins.failures] == [str(local)]
    local.write_text(HOOK.format("x") + HOOK.format("y").replace("_report", "_reprot"))
    plugins = load(Wanted(folders=(tmp_path,)))
    assert reports(plugins) == ["x"]
    assert state(plugins, str(local)).hooks == ("backprop_status_report",)
    assert plugins.warnings == [
        f"{local}: there is no hook backprop_status_reprot; did you mean backprop_status_report?"
    ]


# Loading when it is needed ---------------------------------------------------------------------

NOTING = "import noted\nnoted.names.append(__name__)\n"


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the plugins that were imported, in that order."""
    noted = ModuleType("noted")
    noted.names = []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "noted", noted)
    names: list[str] = noted.names
    return names


def test_each_built_in_entry_point_names_exactly_the_hooks_that_its_plugin_implements() -> None:
    points = [point for point in find_entry_points() if point.distribution == OWN_DISTRIBUTION]
    named = {point.name: set(point.hooks) for point in points}
    assert named == {
        point.name: {hook for hook, _, _ in marked(load_it(point.target)[0])} for point in points
    }
    assert all(named.values())


def test_a_plugin_that_names_its_hooks_is_imported_when_one_of_them_is_asked(
    site: Path, imported: list[str]
) -> None:
    points = "lazy = lazy_one [backprop_status_report, backprop_run_paused]\neager = eager_one\n"
    install(site, "other", f"[backprop]\n{points}")
    paused = "@hookimpl\ndef backprop_run_paused():\n    pass\n"
    (site / "lazy_one.py").write_text(NOTING + HOOK.format("lazy") + paused)
    (site / "eager_one.py").write_text(NOTING + HOOK.format("eager"))
    plugins = load(Wanted())
    assert imported == ["eager_one"]
    plugins.ask("backprop_commands")
    assert imported == ["eager_one"]
    assert plugins.implementers("backprop_run_paused") == ["lazy"]
    assert imported == ["eager_one", "lazy_one"]
    assert reports(plugins) == ["eager", "lazy"]
    assert imported == ["eager_one", "lazy_one"]


def test_the_order_of_calls_is_as_if_everybody_had_been_loaded_at_once(site: Path) -> None:
    install(site, "other", "[backprop]\na = a_plugin [backprop_status_report]\nb = b_plugin\n")
    install(site, "third", "[backprop]\nc = c_plugin [backprop_status_report]\n")
    for name in "abc":
        (site / f"{name}_plugin.py").write_text(HOOK.format(name))
    plugins = load(Wanted())
    assert reports(plugins) == ["c", "b", "a"]
    assert [state.name for state in plugins.states[-3:]] == ["a", "b", "c"]


def test_the_order_of_calls_is_pluggys() -> None:
    marks: list[dict[str, Any]] = [{}, {"tryfirst": True}, {"trylast": True}] * 2
    for given in itertools.permutations(marks):
        ours, theirs = Plugins(), pluggy.PluginManager(PROJECT)
        for name, options in zip("abcdef", given, strict=True):
            made = ModuleType(name)
            made.backprop_status_report = hookimpl(**options)(lambda settings: settings)  # type: ignore[attr-defined]
            ours.add(made, PluginState(name=name, state="active"))
            theirs.register(made, name)
        called = [each.plugin_name for each in theirs.hook.backprop_status_report.get_hookimpls()]
        assert ours.implementers("backprop_status_report") == called[::-1]


def test_one_that_does_not_import_is_a_named_failure_when_it_is_needed(site: Path) -> None:
    install(site, "other", "[backprop]\nother = other_plugin [backprop_status_report]\n")
    (site / "other_plugin.py").write_text("1 / 0")
    plugins = load(Wanted())
    assert plugins.failures == []
    assert reports(plugins) == []
    assert reports(plugins) == []
    assert [failure.error for failure in plugins.failures] == ["ZeroDivisionError: division by zero"]
    assert plugins.failures[0].path == str(site / "other_plugin.py")
    assert state(plugins, "other").state == "failed"


@pytest.mark.parametrize("hooks", ["backprop_commands", "backprop_commands, backprop_status_report"])
def test_one_that_implements_other_hooks_than_it_names_is_refused(site: Path, hooks: str) -> None:
    install(site, "other", f"[backprop]\nother = other_plugin [{hooks}]\n")
    (site / "other_plugin.py").write_text(HOOK.format("x"))
    plugins = load(Wanted())
    plugins.ask("backprop_commands")
    assert [failure.error for failure in plugins.failures] == [
        f"its entry point names {hooks}, and it implements backprop_status_report"
    ]
    assert reports(plugins) == []


def test_a_name_is_taken_before_its_plugin_is_loaded(site: Path, imported: list[str]) -> None:
    install(site, "first", "[backprop]\nsame = first_plugin [backprop_status_report]\n")
    install(site, "second", "[backprop]\nsame = second_plugin\n")
    for name in ("first", "second"):
        (site / f"{name}_plugin.py").write_text(NOTING + HOOK.format(name))
    plugins = load(Wanted())
    (failure,) = plugins.failures
    assert failure.error.startswith("two plugins are named 'same': first_plugin and ")
    assert reports(plugins) == ["first"]
    assert [state.state for state in plugins.states if state.name == "same"] == ["active", "failed"]


def test_one_that_is_there_already_is_not_taken_in_by_another_name(site: Path) -> None:
    install(site, "other", "[backprop]\nother = other_plugin [backprop_status_report]\n")
    (site / "other_plugin.py").write_text(HOOK.format("x"))
    with pytest.raises(PluginError, match="it is loaded already, as 'other'"):
        load(Wanted(modules=("other_plugin",)))


def test_several_threads_that_ask_at_once_all_hear_one_that_is_loaded_just_then(
    site: Path, imported: list[str]
) -> None:
    install(site, "other", "[backprop]\nother = other_plugin [backprop_status_report]\n")
    (site / "other_plugin.py").write_text(
        NOTING + "import time\ntime.sleep(0.2)  # a slow disk\n" + HOOK.format("x")
    )
    plugins = load(Wanted())
    heard: list[list[Any]] = []
    threads = [threading.Thread(target=lambda: heard.append(reports(plugins))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [["x"]] * 4
    assert imported == ["other_plugin"]


# Trust -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_a_local_file_that_others_may_write_is_not_loaded_aloud(tmp_path: Path, mode: int) -> None:
    local = tmp_path / LOCAL_NAME
    local.write_text("1 / 0")
    local.chmod(mode)
    plugins = load(Wanted(folders=(tmp_path,)))
    assert state(plugins, str(local)).state == "blocked"
    assert plugins.warnings == [
        f"{local} is not loaded: other users may write {local} (chmod go-w it)",
    ]
    assert plugins.failures == []


def test_nor_is_one_in_a_folder_that_others_may_write_unless_they_cannot_replace_it(tmp_path: Path) -> None:
    (tmp_path / LOCAL_NAME).write_text(HOOK.format("x"))
    tmp_path.chmod(0o777)
    assert reports(load(Wanted(folders=(tmp_path,)))) == []
    tmp_path.chmod(0o1777)
    assert reports(load(Wanted(folders=(tmp_path,)))) == ["x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_what_another_user_owns_is_not_trusted_and_neither_is_a_link_to_it(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs.py", tmp_path / LOCAL_NAME
    theirs.write_text("1 / 0")
    link.symlink_to(theirs)
    assert untrusted(link) is None
    os.chown(theirs, 12345, -1)
    assert untrusted(link) == f"another user owns {link}"


def test_what_is_not_there_is_not_trusted(tmp_path: Path) -> None:
    assert "no such file" in str(untrusted(tmp_path / "none")).lower()
