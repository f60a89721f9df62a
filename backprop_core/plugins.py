"""Holding and asking the plugins of a command: the one place where a plugin's exceptions end.

Implementations are called one by one, so that a plugin that fails silences no other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import msgspec
import pluggy

from . import hookspecs
from .alarm import Alarm, TookTooLongError
from .answers import problem_with_part
from .clock import now_s
from .errors import BackpropError, PluginError
from .implementations import SPECS, Manager, marked, problem_with, turn
from .interrupts import is_persons
from .records import PluginFailure, PluginOption, Record

OWN_DISTRIBUTION = "backprop-core"
SLOW_S = 3.0
SAID_ANYWAY = frozenset({"backprop_admit", "backprop_select_gpu", "backprop_status_report"})
MOST_ALIKE = 3


class PluginState(Record, frozen=True):
    """What `backprop plugins` says of one plugin."""

    name: str
    state: str
    path: str | None = None
    distribution: str | None = None
    version: str | None = None
    hooks: tuple[str, ...] = ()
    error: str | None = None


class Answer(Record, frozen=True):
    """What one implementation of a hook returned, or how it failed."""

    plugin: str
    value: Any = None
    failure: PluginFailure | None = None


class Call(Record, frozen=True):
    """One call of one implementation of a hook."""

    hook: str
    plugin: str
    value: Any
    failure: PluginFailure | None
    took_s: float


class Expected(Record, frozen=True):
    """A plugin that says which hooks it implements, and is loaded when one of them is first asked.

    `place` is where it stands among all plugins, which `load` is given.
    """

    state: PluginState
    place: int
    load: Callable[[int], PluginFailure | None]


class Plugins:
    """The plugins of one command.

    `tell` is told of one that keeps the command waiting, `trace` of every call of a hook.
    """

    def __init__(
        self, *, tell: Callable[[str], None] | None = None, trace: Callable[[Call], None] | None = None
    ) -> None:
        self.tell = tell
        self.trace = trace
        self._manager = Manager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._places: dict[str, int] = {}
        self._in_turn: dict[str, list[pluggy.HookImpl]] = {}
        self._states: list[PluginState] = []
        self._expected: list[Expected] = []
        self._loading = threading.RLock()
        self._paths: dict[str, str | None] = {}
        self._others: set[str] = set()
        self._busy: dict[int, str] = {}
        self._parts: dict[str, list[tuple[str, Any]]] = {}
        self.told: set[str] = set()
        self._options: list[tuple[str, PluginOption]] | None = None
        self._hung: dict[tuple[str, str | None], PluginFailure] = {}
        self.failures: list[PluginFailure] = []
        self.warnings: list[str] = []

    @property
    def states(self) -> Sequence[PluginState]:
        """What `backprop plugins` says of each, in the order of their sources; whoever is expected is loaded."""
        self._load_expected(lambda _: True)
        return self._states

    def add(
        self, plugin: object, state: PluginState, *, is_local: bool = False, place: int | None = None
    ) -> None:
        """Take in a loaded plugin under its name.

        :param place: Where it was expected; None for the newest of all.
        :raises PluginError: for a taken name, an unknown hook (only a warning where `is_local`), a wrapper,
            a signature that no caller can serve, other hooks than were expected, or a plugin that is here already.
        """
        self._refuse_taken(state)
        if place is None:
            self._load_expected(lambda one: one.state.path == getattr(plugin, "__name__", None))
        if known := self._manager.get_name(plugin):
            raise PluginError(f"it is loaded already, as {known!r}")
        hooks = tuple(self._checked(plugin, state, is_local=is_local))
        if place is not None and set(hooks) != set(state.hooks):
            raise PluginError(f"its entry point names {_list(state.hooks)}, and it implements {_list(hooks)}")
        if place is None:
            self._warn_of_deprecated(state, hooks)
        self._places[state.name] = len(self._states) if place is None else place
        self._manager.register(plugin, state.name)
        self._in_turn.clear()
        self._take_name(state)
        self._put(msgspec.structs.replace(state, hooks=hooks), place)

    def expect(self, state: PluginState, load: Callable[[int], PluginFailure | None]) -> None:
        """Have a plugin loaded when one of the hooks is asked that it says it implements.

        :param load: Is given the plugin's place, hands the plugin with it to `add`, and returns why it could not.
        :raises PluginError: for a taken name.
        """
        self._refuse_taken(state)
        self._take_name(state)
        self._warn_of_deprecated(state, state.hooks)
        self._expected.append(Expected(state=state, place=len(self._states), load=load))
        self._states.append(state)

    def _load_expected(self, is_wanted: Callable[[Expected], bool]) -> None:
        """Load whom nobody has needed yet; on any thread, the others wait for it."""
        if not self._expected:
            return
        with self._loading:
            for one in [each for each in self._expected if is_wanted(each)]:
                self._paths.pop(one.state.name, None)  # the name is its own to take
                if failure := one.load(one.place):
                    self.fail(one.state, failure, one.place)
                self._expected.remove(one)

    def _refuse_taken(self, state: PluginState) -> None:
        if state.name in self._paths:
            where = self._paths[state.name]
            raise PluginError(f"two plugins are named {state.name!r}: {where} and {state.path}")

    def _take_name(self, state: PluginState) -> None:
        self._paths[state.name] = state.path
        if state.distribution != OWN_DISTRIBUTION:
            self._others.add(state.name)

    def _warn_of_deprecated(self, state: PluginState, hooks: Sequence[str]) -> None:
        for hook in hooks:
            if instead := hookspecs.DEPRECATED.get(hook):
                where = f" ({state.path})" if state.path not in {None, state.name} else ""
                self.warnings.append(f"plugin {state.name}{where} has {hook}, which will go: {instead}")

    def _put(self, state: PluginState, place: int | None) -> None:
        if place is None:
            self._states.append(state)
        else:
            self._states[place] = state

    def _checked(self, plugin: object, state: PluginState, *, is_local: bool) -> Iterator[str]:
        for name, function, options in marked(plugin):
            problem = problem_with(name, function, options)
            if problem and is_local and name not in SPECS:
                self.warnings.append(f"{state.path}: {problem}")
            elif problem:
                raise PluginError(problem)
            else:
                yield name

    def leave_out(self, state: PluginState, why: str | None = None) -> None:
        """Note that a plugin was blocked, by a person or for its place."""
        self._put(msgspec.structs.replace(state, state="blocked", error=why, hooks=()), None)

    def fail(self, state: PluginState, failure: PluginFailure, place: int | None = None) -> None:
        """Note that a plugin did not load; the command goes on without it."""
        self.failures.append(failure)
        failed = msgspec.structs.replace(
            state, state="failed", path=failure.path, error=failure.error, hooks=()
        )
        self._put(failed, place)

    def _of(self, hook: str) -> Sequence[pluggy.HookImpl]:
        """Return what implements a hook, in the order in which it is called."""
        self._load_expected(lambda one: hook in one.state.hooks)
        if hook not in self._in_turn:
            found = getattr(self._manager.hook, hook).get_hookimpls()
            self._in_turn[hook] = sorted(found, key=lambda one: turn(one, self._places[one.plugin_name]))
        return self._in_turn[hook]

    def ask(
        self, hook: str, is_asked: Callable[[str], bool] | None = None, /, **arguments: Any
    ) -> list[Answer]:
        """Call every implementation of a hook, the newest plugin first; None answers are left out.

        :param is_asked: Called with a plugin's name when it is about to be asked; False passes it over.
        """
        answers = []
        for one in self._of(hook):
            name = one.plugin_name
            if is_asked is not None and not is_asked(name):
                continue
            if failure := self._hung.get((name, hook)):
                answers.append(Answer(plugin=name, failure=failure))
                continue
            given = [arguments[each] for each in one.argnames]
            value, failure = self._call(name, hook, one.function, given)
            if failure and failure.is_hung:
                self.give_up(failure)
            elif failure:
                self.note(failure)
            if failure or value is not None:
                answers.append(Answer(plugin=name, value=value, failure=failure))
        return answers

    def _call(
        self, plugin: str, hook: str, function: Callable[..., Any], given: Sequence[Any]
    ) -> tuple[Any, PluginFailure | None]:
        started_s, thread = now_s(), threading.get_ident()
        self._busy[thread] = f"{self._called(plugin)} in {hook}"
        with said_when_slow(self.tell if plugin in self._others else None, self._busy[thread]):
            value, failure = guarded(plugin, hook, function, *given, path=self._paths[plugin])
        del self._busy[thread]
        if self.trace:
            took_s = now_s() - started_s
            self.trace(Call(hook=hook, plugin=plugin, value=value, failure=failure, took_s=took_s))
        return value, failure

    def _called(self, plugin: str) -> str:
        path = self._paths[plugin]
        return f"plugin {plugin}" + (f" ({path})" if path not in (None, plugin) else "")

    def busy_with(self, thread: int | None) -> str | None:
        """Name the plugin and the hook that a thread is in at this moment."""
        return self._busy.get(thread or 0)

    def give_up(self, failure: PluginFailure) -> None:
        """Never again call a plugin's hook: it fails from now on without being asked."""
        self._hung[failure.plugin, failure.hook] = failure
        self.note(failure)

    def note(self, failure: PluginFailure) -> None:
        """Remember a failure, once: one that comes with every event of a long run must not fill the memory."""
        if failure.path is None and (owner := self._owner_named(failure.plugin)):
            failure = msgspec.structs.replace(failure, path=self._paths[owner])
        alike = [known for known in self.failures if is_alike(known, failure)]
        if failure not in alike and len(alike) < MOST_ALIKE:
            self.failures.append(failure)

    def tell_failures(self) -> None:
        """Tell of each failure once, but for those that what the command says anyway names."""
        for failure in self.failures:
            if self.tell and failure.hook not in SAID_ANYWAY and str(failure) not in self.told:
                self.told.add(str(failure))
                self.tell(str(failure))

    def failure(self, plugin: str, hook: str, error: str) -> PluginFailure:
        """Describe what a plugin did wrong without raising."""
        return PluginFailure(plugin=plugin, hook=hook, error=error, path=self._paths[plugin])

    def path(self, plugin: str) -> str | None:
        """Return the file of a plugin."""
        return self._paths[plugin]

    def implementers(self, hook: str) -> list[str]:
        """Name the plugins that implement the hook, the newest first."""
        return [one.plugin_name for one in self._of(hook)]

    def parts(self, hook: str, **arguments: Any) -> list[Any]:
        """Collect the parts that plugins bring; one that lacks what such a part needs is a failure."""
        return [part for _, part in self.brought(hook, **arguments)]

    def brought(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Collect parts, each with the name of its plugin; what depends on nothing is asked for once."""
        if not arguments and hook in self._parts:
            return self._parts[hook]
        found = self._ask_for_parts(hook, **arguments)
        if not arguments:
            self._parts[hook] = found
        return found

    def _ask_for_parts(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        found = []
        for answer in self.ask(hook, **arguments):
            if answer.failure:
                continue
            for part in answer.value if isinstance(answer.value, list | tuple) else [answer.value]:
                problem, failure = guarded(answer.plugin, hook, problem_with_part, hook, part)
                if failure or problem:
                    error = failure.error if failure else problem
                    self.note(self.failure(answer.plugin, hook, error))
                else:
                    found.append((answer.plugin, part))
        return found

    def origin(self, part: object) -> str | None:
        """Say which plugin brought a part, with its file; None where it came with Backprop."""
        owners = (name for name, one in self._all_parts() if one is part and name in self._others)
        return next((f"it is brought by {self._called(name)}" for name in owners), None)

    def _owner_named(self, part: str) -> str | None:
        """Name the plugin that brought the part of that name: the first that did is the one in use."""
        return next((name for name, one in self._all_parts() if getattr(one, "name", None) == part), None)

    def _all_parts(self) -> Iterator[tuple[str, Any]]:
        for brought in self._parts.values():
            yield from brought

    def options(self) -> list[tuple[str, PluginOption]]:
        """Collect the options that plugins declare, with the plugin's name; they are asked once."""
        if self._options is None:
            self._options = self._ask_for_options()
        return self._options

    def _ask_for_options(self) -> list[tuple[str, PluginOption]]:
        found: list[tuple[str, PluginOption]] = []
        for answer in self.ask("backprop_options"):
            options = answer.value
            if answer.failure:
                continue
            if isinstance(options, list | tuple) and all(isinstance(one, PluginOption) for one in options):
                found += [(answer.plugin, option) for option in options]
            else:
                error = f"it answered {type(options).__name__}, not a list of PluginOption"
                self.note(self.failure(answer.plugin, "backprop_options", error))
        return found


@contextmanager
def said_when_slow(tell: Callable[[str], None] | None, what: str) -> Iterator[None]:
    """Say what keeps a person waiting, and go on waiting: Ctrl-C is theirs to press."""
    if tell is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(SLOW_S, tell, [f"still waiting for {what} after {SLOW_S:g} s"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _list(hooks: Sequence[str]) -> str:
    return ", ".join(sorted(hooks)) or "nothing"


def _in_words(error: BaseException) -> str:
    if isinstance(error, BackpropError):
        return error.message
    try:
        return f"{type(error).__name__}: {error}".split("\n", 1)[0][:500]
    except BaseException as another:
        if is_persons(another):
            raise
        return type(error).__name__


def is_alike(one: PluginFailure, other: PluginFailure) -> bool:
    """Tell whether two failures are the same plugin's in the same hook."""
    return (one.plugin, one.hook) == (other.plugin, other.hook)


PATIENT = Alarm(idle_s=10.0, busy_s=10.0)
"""For a hook that decides: others wait for it, at the door of the machine all runs do."""


def guarded(
    plugin: str,
    hook: str | None,
    function: Callable[..., Any],
    *arguments: Any,
    path: str | None = None,
    alarm: Alarm | None = PATIENT,
) -> tuple[Any, PluginFailure | None]:
    """Call a plugin's function; whatever it raises becomes a failure that names it, and so does a long wait.

    Ctrl-C alone passes: it is a person's. Errors of Backprop's own tree carry their message alone.

    :param alarm: How long the main thread may be kept, None for ever; on other threads no call is interrupted.
    """
    try:
        with alarm or nullcontext():
            return function(*arguments), None
    except TookTooLongError as error:
        return None, PluginFailure(plugin=plugin, hook=hook, error=str(error), path=path, is_hung=True)
    except BaseException as error:
        if is_persons(error):
            raise
        return None, PluginFailure(plugin=plugin, hook=hook, error=_in_words(error), path=path)


@contextmanager
def translating(
    part: str, doing: str, as_error: type[BackpropError], hint: str | None = None
) -> Iterator[None]:
    """Turn what a chosen part raises into an error that names it; errors of Backprop's own tree pass.

    So do GeneratorExit, for whoever reads an answer piece by piece may have read enough, and an alarm set around it.
    """
    try:
        yield
    except (BackpropError, GeneratorExit, TookTooLongError):
        raise
    except BaseException as error:
        if is_persons(error):
            raise
        raise as_error(f"{part} failed in {doing}: {_in_words(error)}", hint) from error
