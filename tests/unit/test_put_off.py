from __future__ import annotations

import sys
from types import ModuleType

import pytest

from backprop_core.cli.put_off import HARDLY_USED, put_off


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> str:
    """Name a module that nobody has loaded; it says `real` and has more to offer."""
    with open(f"{tmp_path}/hardly_used_library.py", "w", encoding="utf-8") as file:
        file.write("def answer():\n    return 'real'\nmore = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hardly_used_library", raising=False)
    return "hardly_used_library"


def test_a_stand_in_answers_what_it_can_and_loads_its_module_for_the_rest(library: str) -> None:
    with put_off({library: {"answer": lambda: "stand-in"}}):
        import hardly_used_library as module  # type: ignore[import-not-found]
    assert library not in sys.modules
    assert module.answer() == "stand-in"
    assert library not in sys.modules
    assert module.more == 1
    assert sys.modules[library].answer() == "real"
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018 - it is the question that counts


def test_what_asks_at_once_gets_the_module_itself(library: str) -> None:
    with put_off({library: {}}):
        from hardly_used_library import more

        assert more == 1
        assert sys.modules[library].answer() == "real"
    assert sys.modules[library].answer() == "real"


def test_what_is_loaded_already_is_left_alone(library: str) -> None:
    module = __import__(library)
    with put_off({library: {}}):
        assert sys.modules[library] is module
    assert sys.modules[library] is module


@pytest.mark.parametrize("name", HARDLY_USED["inspect"])
@pytest.mark.parametrize(
    "thing",
    [int, len, str.join, "".join, put_off, test_what_is_loaded_already_is_left_alone, sys, 1, property()],
)
def test_stand_ins_answer_as_inspect_does(name: str, thing: object) -> None:
    import inspect

    stand_in, real = HARDLY_USED["inspect"][name], getattr(inspect, name)
    more = ("__name__", None) if name == "getattr_static" else ()
    assert stand_in(thing, *more) == real(thing, *more)


def test_a_stand_in_finds_what_stands_in_a_module_and_nothing_else() -> None:
    import inspect

    look = HARDLY_USED["inspect"]["getattr_static"]
    module = ModuleType("example")
    module.hook = put_off  # type: ignore[attr-defined]
    assert look(module, "hook") is inspect.getattr_static(module, "hook")
    assert look(module, "missing", 1) == 1
    with pytest.raises(AttributeError):
        look(module, "missing")
    assert HARDLY_USED["inspect"]["unwrap"](put_off) is inspect.unwrap(put_off)
