"""How long commands take that have nothing to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .bench import Bench
from .measuring import Samples, alternate, wall_s
from .past import home_with
from .results import Budget, Result, row

NAME = "start-up"
PAST_RUNS = 5000
HELP = (("--help",), ("run", "--help"))
# The original's whole-process times over the bare interpreter's, measured in pairs on two cores: 145 ms over
# 12.3 ms, 228 over 12.3, and for a run 280 - 12.3 ms over 12.3. Used where the original is not installed.
ORIGINAL_OVER_BARE = {"--version": 11.8, "list": 18.5, "run": 21.8}
PLUGIN = """from backprop_core import PluginOption, hookimpl


@hookimpl
def backprop_options():
    return [PluginOption(name="{name}-url", help="Where to tell.")]


@hookimpl
def backprop_run_started(run):
    pass
"""
SHARE = {"--version": 0.45, "list": 0.35, "run": 0.40}


def measure(bench: Bench) -> Iterator[Result]:
    empty = bench.script("empty.py", "")
    count = 100 if bench.quick else PAST_RUNS
    home = home_with(bench, count)
    past = bench.environ(home)
    fresh = bench.environ(bench.home("start-up"))
    place = bench.place
    with_plugins = {**past, "PYTHONPATH": str(_ten_plugins(place / "ten-plugins"))}
    cases = {
        "python empty.py": lambda: wall_s([bench.python, str(empty)], fresh, place),
        "timeout 600 python empty.py": lambda: wall_s(
            ["timeout", "600", bench.python, str(empty)], fresh, place
        ),
        "--version": lambda: wall_s([*bench.backprop, "--version"], past, place),
        "list": lambda: wall_s([*bench.backprop, "list"], past, place),
        "run": lambda: wall_s(bench.run(empty), past, place),
    }
    for command in HELP:
        words = [*bench.backprop, *command]
        cases[" ".join(command)] = partial(wall_s, words, past, place)
        cases[f"{' '.join(command)}, ten plugins"] = partial(wall_s, words, with_plugins, place)
    if bench.original:
        original, store = bench.original, bench.environ_of_original(bench.home("original"), home)
        cases["original --version"] = lambda: wall_s([*original, "--version"], store, place)
        cases["original list"] = lambda: wall_s([*original, "list"], store, place)
        cases["original run"] = lambda: wall_s([*original, "run", str(empty)], store, place)
    if bench.guild:
        guild, store_of_guild = bench.guild, bench.environ(bench.home("guild"))
        cases["guild run"] = lambda: wall_s([*guild, "run", "-y", str(empty)], store_of_guild, place)
    found = alternate(cases, bench.repetitions(15))
    bare = found["python empty.py"]
    yield row(NAME, "python empty.py", bare, "ms", scale=1e3)
    for name in cases:
        if name in SHARE:
            yield _own(name, found, bare, count)
        elif name.endswith(", ten plugins"):
            without = found[name.removesuffix(", ten plugins")]
            budget = Budget(1.3, "<= 1.3 x without", is_ratio=True)
            yield row(
                NAME,
                f"backprop {name}",
                found[name],
                "ms",
                scale=1e3,
                reference=("without", without),
                budget=budget,
            )
        elif name != "python empty.py":
            yield row(NAME, name, found[name], "ms", scale=1e3, reference=("bare", bare))


def _own(name: str, found: dict[str, Samples], bare: Samples, count: int) -> Result:
    samples = found[name]
    case = {"list": f"backprop list, {count:,} runs", "run": "backprop run empty.py, over bare"}.get(
        name, f"backprop {name}"
    )
    if name == "run":
        samples = Samples(tuple(value - bare.median for value in samples.values))
    if original := found.get(f"original {name}"):
        against = original
        if name == "run":
            against = Samples(tuple(value - bare.median for value in original.values))
        budget = Budget(SHARE[name], f"<= {SHARE[name]} x the original", is_ratio=True)
        return row(NAME, case, samples, "ms", scale=1e3, reference=("the original", against), budget=budget)
    limit = SHARE[name] * ORIGINAL_OVER_BARE[name]
    budget = Budget(
        limit,
        f"<= {limit:.1f} x bare ({SHARE[name]} x the original's {ORIGINAL_OVER_BARE[name]})",
        is_ratio=True,
    )
    return row(NAME, case, samples, "ms", scale=1e3, reference=("bare", bare), budget=budget)


def _ten_plugins(folder: Path) -> Path:
    """Install ten plugins, each with an option and a hook, and return what to put on the import path."""
    for number in range(10):
        name = f"plugin{number}"
        metadata = folder / f"{name}-1.0.dist-info"
        os.makedirs(metadata)
        (folder / f"{name}.py").write_text(PLUGIN.replace("{name}", name))
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[backprop]\n{name} = {name}\n")
    return folder
