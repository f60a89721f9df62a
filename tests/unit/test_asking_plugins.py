"""What a plugin may look like, and what comes of asking: what one does wrong ends here, with its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from fake_plugins import bring, plugin, plugins_with

from backprop_core import PluginError, hookimpl
from backprop_core.plugins import PATIENT, Plugins, PluginState, guarded
from backprop_core.records import PluginOption

# What a plugin may look like -------------------------------------------------------------------


def wrapping(**options: Any) -> ModuleType:
    def backprop_status_report(settings: object) -> Iterator[None]:
        yield

    module = ModuleType("wrapping")
    module.backprop_status_report = hookimpl(**options)(backprop_status_report)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (
            lambda: wrapping(wrapper=True),
            "backprop_status_report is a hook wrapper, which Backprop does not call",
        ),
        (lambda: wrapping(hookwrapper=True), "backprop_status_report is a hook wrapper"),
        (wrapping, "backprop_status_report is async, or has a yield, so that a call of it does nothing"),
        (
            lambda: plugin(backprop_status_report=lambda settings=None: settings),
            "has arguments with defaults",
        ),
        (lambda: plugin(backprop_status_report=lambda *, settings: settings), "by keyword only"),
        (lambda: plugin(backprop_govern=lambda run, gpu: (run, gpu)), "takes gpu; it may take run, machine"),
        (lambda: plugin(backprop_options=lambda settings: settings), "takes settings; it may take nothing"),
        (lambda: plugin(backprop_run_begun=lambda: None), "there is no hook backprop_run_begun"),
    ],
)
def test_an_implementation_that_nobody_could_call_is_refused_when_it_is_loaded(
    made: Callable[[], ModuleType], problem: str
) -> None:
    with pytest.raises(PluginError) as caught:
        Plugins().add(made(), PluginState(name="wrong", state="active", path="/wrong.py"))
    assert problem in caught.value.message


def test_what_is_no_function_is_refused() -> None:
    class Callable_:  # noqa: N801 - what it is
        backprop_impl = {"specname": "backprop_status_report"}  # noqa: RUF012 - as the marker leaves it

    module = ModuleType("odd")
    module.x = Callable_()  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="is not a function"):
        Plugins().add(module, PluginState(name="odd", state="active"))


def test_a_second_plugin_of_a_name_is_refused_with_both_places() -> None:
    plugins = plugins_with()
    with pytest.raises(PluginError, match=r"two plugins are named 'one': .* and /one.py"):
        bring(plugins, "one")


# Asking ----------------------------------------------------------------------------------------


class BrokenTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raising(error: BaseException) -> Callable[[], None]:
    def implementation() -> None:
        raise error

    return implementation


def test_one_that_fails_silences_no_other_and_is_named_once() -> None:
    plugins = plugins_with(backprop_status_report=lambda: "first")
    for name, error in (
        ("exits", SystemExit(1)),
        ("raises", ValueError("two\nlines")),
        ("odd", BrokenTextError()),
    ):
        bring(plugins, name, backprop_status_report=raising(error))
    bring(plugins, "ours", backprop_status_report=raising(PluginError("said plainly", "hint")))
    bring(plugins, "silent", backprop_status_report=lambda: None)
    bring(plugins, "last", backprop_status_report=lambda settings: settings + "!")
    for _ in range(3):
        answers = plugins.ask("backprop_status_report", settings="s")
    assert [(answer.plugin, answer.value) for answer in answers if not answer.failure] == [
        ("last", "s!"),
        ("one", "first"),
    ]
    assert [(failure.plugin, failure.error) for failure in plugins.failures] == [
        ("ours", "said plainly"),
        ("odd", "BrokenTextError"),
        ("raises", "ValueError: two"),
        ("exits", "SystemExit: 1"),
    ]
    assert {failure.hook for failure in plugins.failures} == {"backprop_status_report"}


def test_an_interrupt_is_nobodys_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        guarded("x", "hook", raising(KeyboardInterrupt()))


def test_parts_are_collected_one_or_several_and_held_to_what_they_need() -> None:
    class Part:
        name = "whole"
        order = 1
        is_available = read = visible_devices = print

    class Half:
        name = "half"

    plugins = plugins_with(backprop_gpu_probe=lambda: [Part()])
    bring(plugins, "more", backprop_gpu_probe=lambda: [Part(), Half()])
    bring(plugins, "broken", backprop_gpu_probe=raising(ValueError("no")))
    assert [part.name for part in plugins.parts("backprop_gpu_probe")] == ["whole"] * 2
    assert [(failure.plugin, failure.error) for failure in plugins.failures] == [
        ("broken", "ValueError: no"),
        ("more", "Half lacks order, is_available, read, visible_devices"),
    ]


def test_options_are_collected_and_anything_else_in_their_place_is_a_failure() -> None:
    option = PluginOption(name="url", help="Where.")
    plugins = plugins_with(backprop_options=lambda: [option])
    bring(plugins, "wrong", backprop_options=lambda: ["url"])
    bring(plugins, "worse", backprop_options=lambda: 7)
    assert plugins.options() == [("one", option)]
    assert [failure.plugin for failure in plugins.failures] == ["worse", "wrong"]


def test_it_is_known_who_listens() -> None:
    plugins = plugins_with(backprop_run_paused=lambda: None)
    bring(plugins, "newer", backprop_run_paused=lambda: None)
    assert plugins.implementers("backprop_run_paused") == ["newer", "one"]
    assert Plugins().implementers("backprop_run_paused") == []


def test_a_plugin_may_be_passed_over() -> None:
    plugins = plugins_with(backprop_status_report=lambda: 1)
    bring(plugins, "newer", backprop_status_report=lambda: 2)
    answers = plugins.ask("backprop_status_report", lambda name: name != "newer", settings=None)
    assert [answer.value for answer in answers] == [1]


def test_one_that_hangs_is_interrupted_named_and_never_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PATIENT, "_idle_s", 0.2)
    asked: list[float] = []

    def hang() -> None:
        asked.append(time.monotonic())
        time.sleep(60)

    plugins = plugins_with(backprop_status_report=lambda: 1)
    bring(plugins, "hanging", backprop_status_report=hang)
    for _ in range(3):
        hung, other = plugins.ask("backprop_status_report", settings=None)
        assert hung.failure
        assert hung.failure.error == "it did nothing for 0.2 s"
        assert other.value == 1
    assert len(asked) == 1
    assert time.monotonic() - asked[0] < 5
    assert plugins.failures == [hung.failure]


def test_of_failures_of_one_hook_that_differ_each_time_a_few_are_remembered() -> None:
    numbers = iter(range(100))

    def fail() -> None:
        raise ValueError(next(numbers))

    plugins = plugins_with(backprop_status_report=fail, backprop_options=fail)
    for _ in range(20):
        plugins.ask("backprop_status_report", settings=None)
    plugins.ask("backprop_options")
    assert [failure.error for failure in plugins.failures] == [f"ValueError: {n}" for n in (0, 1, 2, 20)]
