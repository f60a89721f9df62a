"""Whoever is killed, and whenever: no process, no stopped process and no slot is left, and no record says `running`.

The zoo's eight processes mind no signal that can be minded; see the children of the test kit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from figures import Figures
from keeper_client import signs
from kit import Project, wait_for
from zoo_kit import BUSY_S, LADDER_S, Cage, assert_nothing_is_held, end_all, gone_after

AT_ONCE = 4
AGENT, KEEPER, BOTH = ("backprop",), ("keeper",), ("keeper", "backprop")
VICTIMS = [AGENT, KEEPER, BOTH]


def kill_many(
    project: Project, victims: Sequence[str], count: int, *, is_paused: bool = False
) -> list[float]:
    """Kill those that hold runs, a few runs at once; returns how long their animals outlived each."""
    took_s: list[float] = []
    while len(took_s) < count:
        batch = [Cage(project, f"run-{len(took_s) + n}") for n in range(min(AT_ONCE, count - len(took_s)))]
        for cage in batch:
            cage.wait()
        for cage in batch if is_paused else ():
            cage.pause()
        killed_s = time.monotonic()
        for cage in batch:
            cage.kill(victims)
        if victims == BOTH:
            end_all(batch)
            project.run("list")  # nobody is left to see to it but the next command
        gone_s = gone_after(batch, killed_s, LADDER_S + BUSY_S + (5 if victims == BOTH else 0))
        end_all(batch)
        assert_nothing_is_held(project)
        took_s += [gone_s] * len(batch)
    return took_s


@pytest.mark.parametrize("victims", [KEEPER, BOTH], ids="-and-".join)
def test_nobody_survives_a_kill_of_who_holds_the_run(project: Project, victims: Sequence[str]) -> None:
    """The supervisor alone is killed in tests/acceptance/test_stopping.py."""
    kill_many(project, victims, 1)


@pytest.mark.soak
@pytest.mark.parametrize("is_paused", [False, True], ids=["running", "paused"])
@pytest.mark.parametrize("victims", VICTIMS, ids="-and-".join)
def test_nobody_survives_a_hundred_kills(
    project: Project, figures: Figures, victims: Sequence[str], *, is_paused: bool
) -> None:
    took_s = kill_many(project, victims, 100, is_paused=is_paused)
    figures(kills=len(took_s), survivors=0, slots_held=0, records_live=0, slowest_s=max(took_s))


def kill_at_any_moment(project: Project, victims: Sequence[str], count: int, seed: int) -> int:
    """Kill runs somewhere between their first moment and their full zoo; returns how many had an animal by then."""
    choice = random.Random(seed)
    begun = 0
    for first in range(0, count, AT_ONCE):
        batch = [Cage(project, f"run-{first + n}") for n in range(min(AT_ONCE, count - first))]
        for cage in batch:
            if "keeper" in victims:
                wait_for(cage.keeper_by_birth, "the keeper")
            time.sleep(choice.random() * 0.4)  # the moment is what this is about
            cage.kill(victims)
        killed_s = time.monotonic()
        project.run("list")
        gone_after(batch, killed_s, LADDER_S + BUSY_S + 5)
        for cage in batch:
            cage.process.kill()
        end_all(batch)
        assert_nothing_is_held(project)
        begun += sum(bool(signs(cage.folder, "ready")) for cage in batch)
    return begun


def test_a_kill_in_the_first_moments_leaves_nobody(project: Project) -> None:
    kill_at_any_moment(project, BOTH, 2, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("victims", VICTIMS, ids="-and-".join)
def test_a_hundred_kills_at_any_moment_leave_nobody(
    project: Project, figures: Figures, victims: Sequence[str]
) -> None:
    begun = kill_at_any_moment(project, victims, 100, seed=2)
    figures(kills=100, with_animals=begun, survivors=0, slots_held=0, records_live=0)


@pytest.mark.soak
def test_the_zoo_is_ended_by_every_one_of_a_hundred_stops(project: Project, figures: Figures) -> None:
    took_s: list[float] = []
    for first in range(0, 100, AT_ONCE):
        batch = [Cage(project, f"run-{first + n}") for n in range(AT_ONCE)]
        for cage in batch:
            cage.wait()
        asking = [project.start("stop", cage.name) for cage in batch]
        for command in asking:
            assert project.end(command).code == 0
        took_s += [gone_after(batch, time.monotonic(), LADDER_S + BUSY_S)] * len(batch)
        end_all(batch)
        assert {project.record(cage.name)["status"] for cage in batch} == {"stopped"}
        assert_nothing_is_held(project)
    figures(stops=len(took_s), survivors=0, slots_held=0, slowest_s=max(took_s))
