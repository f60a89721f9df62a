"""What every launcher keeps, as tests to inherit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backprop_core.interfaces import Launcher
from backprop_core.records import EngineState, LaunchPlan, Limits

from .project import wait_for

AGENT = """\
import json, os, signal, sys, time
place, code = sys.argv[1], int(sys.argv[2])
if "stubborn" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(place + "/started", "a") as file:
    file.write(json.dumps({"cwd": os.getcwd(), "environment": dict(os.environ)}) + "\\n")
end = time.monotonic() + 120
while not os.path.exists(place + "/leave") and time.monotonic() < end:
    time.sleep(0.02)
sys.exit(code)
"""
"""Stands for Backprop's agent: notes each start, and leaves with its code when it is told to."""

MakePlan = Callable[..., LaunchPlan]
Submit = Callable[[LaunchPlan], str]


class LauncherContract:
    """What every launcher keeps: inherit from this, override `launcher`.

    ::

        class TestMyLauncher(LauncherContract):
            @pytest.fixture
            def launcher(self):
                return MyLauncher()

    The engine must be there: the tests submit real jobs to it.
    """

    patience_s: ClassVar[float] = 30.0
    """How long the engine may take to start or to end a job."""

    @pytest.fixture
    def launcher(self) -> Launcher:
        """Return the launcher that is tested; the one fixture to override."""
        raise NotImplementedError("override launcher")

    @pytest.fixture
    def make_plan(self, tmp_path: Path) -> MakePlan:
        """Return what makes a plan whose agent ends with a code, or minds no signal that can be ignored."""
        for name in ("a folder", "run", "signs"):
            (tmp_path / name).mkdir()
        agent = tmp_path / "agent.py"
        agent.write_text(AGENT)

        def make(run_id: str = "r-1", *, code: int = 0, stubborn: bool = False, **fields: Any) -> LaunchPlan:
            words = [sys.executable, "-S", str(agent), str(tmp_path / "signs"), str(code)]
            plan: dict[str, Any] = {
                "run_id": run_id,
                "attempt": 1,
                "command": (*words, *(["stubborn"] if stubborn else [])),
                "environment": {
                    **os.environ,
                    "BACKPROP_RUN_ID": run_id,
                    "OF_THE_PLAN": "a b\n\"c\" 'd' $e ü",
                },
                "cwd": tmp_path / "a folder",
                "run_dir": tmp_path / "run",
                "limits": Limits(),
            }
            return LaunchPlan(**{**plan, **fields})

        return make

    @pytest.fixture
    def submit(self, launcher: Launcher, leave: Callable[[], None]) -> Iterator[Submit]:
        """Return what submits a plan; when the test ends, so does the job."""
        handles: list[str] = []

        def submitted(plan: LaunchPlan) -> str:
            handles.append(launcher.submit(plan))
            return handles[-1]

        yield submitted
        leave()
        for handle in dict.fromkeys(handles):
            self.wait_for_phase(launcher, handle, "gone")

    @pytest.fixture
    def starts(self, tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
        """Return what tells each start of an agent."""

        def told() -> list[dict[str, Any]]:
            file = tmp_path / "signs" / "started"
            return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

        return told

    @pytest.fixture
    def leave(self, tmp_path: Path) -> Callable[[], None]:
        """Return what tells the agents to leave."""
        return (tmp_path / "signs" / "leave").touch

    def wait_for_phase(self, launcher: Launcher, handle: str, phase: str) -> EngineState:
        """Ask the engine until it says so."""

        def found() -> EngineState | None:
            state = launcher.state([handle])[handle]
            return state if state.phase == phase else None

        state = wait_for(found, f"{handle} to be {phase}", self.patience_s)
        assert state is not None
        return state

    def test_launcher_has_a_name_and_every_method(self, launcher: Launcher) -> None:
        assert isinstance(launcher, Launcher)
        assert launcher.name.strip() == launcher.name != ""

    def test_nothing_stands_in_the_way_of_a_plan_that_can_be_launched(
        self, launcher: Launcher, make_plan: MakePlan
    ) -> None:
        assert list(launcher.preflight(make_plan())) == []

    def test_run_folder_that_is_not_there_is_told_in_words(
        self, launcher: Launcher, make_plan: MakePlan, tmp_path: Path
    ) -> None:
        problems = launcher.preflight(make_plan(run_dir=tmp_path / "nowhere"))
        assert not isinstance(problems, str)
        assert problems
        assert all(problem.strip() for problem in problems)

    def test_rendering_shows_the_agents_command_and_starts_nothing(
        self, launcher: Launcher, make_plan: MakePlan, starts: Callable[[], Sequence[object]]
    ) -> None:
        plan = make_plan()
        shown = launcher.render(plan)
        assert plan.command[2] in shown
        assert starts() == []

    def test_agent_starts_in_its_folder_with_the_plans_environment(
        self,
        submit: Submit,
        make_plan: MakePlan,
        starts: Callable[[], list[dict[str, Any]]],
    ) -> None:
        plan = make_plan()
        handle = submit(plan)
        assert isinstance(handle, str)
        [start] = wait_for(starts, "the agent to start", self.patience_s)
        assert start["cwd"] == str(plan.cwd)
        own = {"_", "PWD", "OLDPWD", "SHLVL", "LC_CTYPE"}  # a shell or the interpreter itself sets these
        missing = {
            name: text
            for name, text in plan.environment.items()
            if name not in own and start["environment"].get(name) != text
        }
        assert missing == {}

    def test_same_attempt_is_started_once_however_often_it_is_submitted(
        self,
        launcher: Launcher,
        submit: Submit,
        make_plan: MakePlan,
        starts: Callable[[], Sequence[object]],
        leave: Callable[[], None],
    ) -> None:
        handles = {submit(make_plan()) for _ in range(3)}
        assert len(handles) == 1
        wait_for(starts, "the agent to start", self.patience_s)
        leave()
        self.wait_for_phase(launcher, handles.pop(), "gone")
        assert len(starts()) == 1

    @pytest.mark.parametrize("code", [0, 3])
    def test_state_tells_that_the_agent_runs_and_how_it_ended(
        self,
        launcher: Launcher,
        submit: Submit,
        make_plan: MakePlan,
        starts: Callable[[], object],
        leave: Callable[[], None],
        code: int,
    ) -> None:
        handle = submit(make_plan(code=code))
        wait_for(starts, "the agent to start", self.patience_s)
        self.wait_for_phase(launcher, handle, "running")
        leave()
        assert self.wait_for_phase(launcher, handle, "gone").exit_code in (code, None)

    def test_one_question_tells_of_every_handle_known_or_not(
        self, launcher: Launcher, submit: Submit, make_plan: MakePlan
    ) -> None:
        handles = [submit(make_plan(run_id)) for run_id in ("r-1", "r-2")]
        assert len(set(handles)) == 2
        states = launcher.state([*handles, "of-nobody"])
        assert {states[handle].phase for handle in handles} <= {"queued", "running"}
        assert states["of-nobody"].phase in {"unknown", "gone"}
        assert not launcher.state([])

    @pytest.mark.parametrize("force", [False, True])
    def test_cancelled_agent_ends_and_by_force_also_one_that_minds_no_signal(
        self,
        launcher: Launcher,
        submit: Submit,
        make_plan: MakePlan,
        starts: Callable[[], object],
        *,
        force: bool,
    ) -> None:
        handle = submit(make_plan(stubborn=force))
        wait_for(starts, "the agent to start", self.patience_s)
        launcher.cancel(handle, force=force)
        assert self.wait_for_phase(launcher, handle, "gone").exit_code != 0
        launcher.cancel(handle, force=force)
