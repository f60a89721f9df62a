"""The blocks of the pages that are no stories are executed: README, explanation, how-to, contrib, examples.

A comment of its own before a block says how, where it is not simply run from its first line to its last:

    <!-- each line -->             each line by itself, in a project of its own that has what the line speaks of
    <!-- exits: 1, 0 -->           line after line, which end with these codes
    <!-- given: a crash -->        something has happened before
    <!-- from the script -->       the lines stand in the script that the page shows
    <!-- tested: FILE -->          another test executes it
    <!-- not run: the reason -->   nobody can: `NOT_RUN` has them all

JSON and TOML are settings of the project, JSON lines what a script prints, and the lines of a `text` block are in the
output of the commands before it, digits aside.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import Done, Project, wait_for
from snippets import OTHERS, PAGES, REFERENCE, ROOT, Block, blocks, name

FRENCH = ROOT / "README.fr.md"  # whose blocks are the README's, as `test_readme` sees to
PLAYED = [
    page
    for page in OTHERS
    if page not in (FRENCH, *REFERENCE) and any("not run" not in b.notes for b in blocks(page))
]
LIMIT_S = 120.0

NOT_RUN = {
    ("CONTRIBUTING.md", "python -m venv .venv && . .venv/bin/activate"),
    ("CONTRIBUTING.md", ".ci/run"),
    ("contrib/backprop-notify/README.md", "pip install backprop-notify"),
    ("contrib/backprop-notify/README.md", "export BACKPROP_NOTIFY_NTFY_URL=https://ntfy.sh/my-secret-topic"),
    ("contrib/backprop-rocm/README.md", "pip install backprop-rocm"),
    ("contrib/backprop-schedule/README.md", "pip install backprop-schedule"),
    ("contrib/backprop-tensorboard/README.md", "pip install backprop-tensorboard"),
    ("contrib/backprop-tensorboard/README.md", "tensorboard --logdir runs"),
    ("contrib/backprop-trainers/README.md", "pip install ./contrib/backprop-trainers"),
    (
        "contrib/backprop-trainers/README.md",
        "pip install './contrib/backprop-trainers[test,trainers]' && pytest contrib/backprop-trainers",
    ),
    ("docs/explanation/performance.md", "python -m benchmarks"),
    ("docs/how-to/keras.md", "manager.restore_or_initialize()"),
    ("docs/how-to/keras.md", 'if path := os.environ.get("BACKPROP_RESUME_FROM"):'),
    ("docs/how-to/plugins/publish-a-plugin.md", "backprop-house/"),
    (
        "docs/how-to/timm.md",
        "backprop run train.py -m 60 --name net -- --data-dir images --model resnet50 --experiment net",
    ),
    ("docs/how-to/plugins/publish-a-plugin.md", "pip install -e './backprop-house[test]'"),
}
"""Every block that nobody executes; why, its page says."""

TRAIN = """
    import os, sys, time
    print('{"step": 1, "loss": 0.5}', flush=True)
    while os.path.exists("go on"):
        time.sleep(0.01)
    sys.exit(os.path.exists("fail"))
"""
LIVE = {"extend", "stop", "pause", "unpause", "logs"}
ENDED = {"status", "list", "rm", "prune", "storage", "checkpoints"}


# --- what a block finds ---------------------------------------------------------------------------


class Place:
    """A project in which blocks of a page are run, with the page's plugin installed where it is about one."""

    def __init__(self, folder: Path, page: Path) -> None:
        folder.mkdir(parents=True)
        self.project = Project(folder)
        self.shown: str | None = None
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.env: dict[str, str | None] = {"PATH": path, "TZ": late_morning(), "NO_COLOR": "1"}
        if page.parent.parent == ROOT / "contrib":
            self.env |= installed(page.parent, folder / "site")
        if page.parent == ROOT / "examples":
            shutil.copytree(ROOT / "examples", self.project.folder / "examples")
        for script in ("train.py", "a.py", "b.py"):
            self.project.write(script, TRAIN)

    def bash(self, text: str, code: int = 0) -> None:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            cwd=self.project.folder,
            env=self.project.environ(self.env),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        self.shown = done.stdout + done.stderr
        assert done.returncode == code, f"{text}\n{self.shown}"

    def backprop(self, *words: str, code: int = 0) -> Done:
        done = self.project.run(*words, env=self.env)
        assert done.code == code, done
        return done


def late_morning() -> str:
    """Return a time zone in which it is between 10 and 11, when no hours are quiet."""
    return f"<T>{time.gmtime().tm_hour - 10:+d}"


def installed(distribution: Path, site: Path) -> dict[str, str | None]:
    """Have a distribution of contrib on the path with its entry points, as pip installs it."""
    text = (distribution / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    points = project.get("entry-points", {}).get("backprop", {})
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    lines = [f"{plugin} = {target}\n" for plugin, target in points.items()]
    (metadata / "entry_points.txt").write_text("[backprop]\n" + "".join(lines))
    path = os.pathsep.join([str(site), str(distribution / "src")])
    return {"PYTHONPATH": path, "BACKPROP_DISABLE_PLUGIN_AUTOLOAD": None}


def what_a_line_speaks_of(place: Place, line: str) -> None:
    """Have a run that has failed to be resumed, a live one to be stopped, and so on."""
    found = re.search(r"backprop (\w+)", line)
    verb = found[1] if found else ""
    if verb == "resume":
        (place.project.folder / "fail").touch()
        place.backprop("run", "train.py", "-n", "baseline", code=1)
        (place.project.folder / "fail").unlink()
    elif verb in LIVE:
        on = place.project.folder / "go on"
        on.touch()
        place.backprop("run", "train.py", "-n", "baseline", "--detach")
        if line.endswith("-f"):
            threading.Timer(1.0, on.unlink).start()
    elif verb in ENDED:
        place.backprop("run", "train.py", "-n", "baseline")
        place.backprop("run", "train.py")


def a_crash(place: Place) -> None:
    """Leave a run's processes behind, without the supervisor and the keeper."""
    project = place.project
    project.write(
        "train.py",
        """
        import os, signal, time
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.fork()
        open(f"ready-{os.getpid()}", "w").close()
        time.sleep(600)
        """,
    )
    running = project.start("run", "train.py", "-n", "baseline", env=place.env)
    wait_for(lambda: len(list(project.folder.glob("ready-*"))) == 2, "both processes")
    keeper = wait_for(lambda: project.holder("baseline")["keeper"], "the keeper")
    for pid in (keeper, running.pid):
        os.kill(int(pid), signal.SIGKILL)
    running.communicate()


GIVEN: dict[str, Callable[[Place], None]] = {"a crash": a_crash}


# --- executing ------------------------------------------------------------------------------------


class Page:
    """Executes a page's blocks, one after the other."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.count = 0
        self.places: list[Place] = []
        self.place = self.fresh()

    def fresh(self) -> Place:
        self.count += 1
        place = Place(self.folder / str(self.count), self.page)
        self.places.append(place)
        return place

    def play(self, block: Block) -> None:
        if given := block.notes.get("given"):
            GIVEN[given](self.place)
        if "each line" in block.notes:
            for line in block.lines:
                place = self.fresh()
                what_a_line_speaks_of(place, line)
                place.bash(line)
        elif exits := block.notes.get("exits"):
            shown = ""
            for line, code in zip(block.lines, exits.split(","), strict=True):
                self.place.bash(line, int(code))
                shown += self.place.shown or ""
            self.place.shown = shown
        else:
            self.play_whole(block)

    def play_whole(self, block: Block) -> None:
        project = self.place.project
        if block.kind == "sh":
            self.place.bash(block.text, int(block.notes.get("exit", 0)))
        elif block.kind == "python":
            self.place.bash(f"{shlex.quote(sys.executable)} - <<'END'\n{block.text}\nEND")
        elif block.kind == "jsonl":
            project.write("prints.py", f"print({block.text!r}, end='')")
            self.place.backprop("run", "prints.py", "-n", "prints")
            last = json.loads(block.lines[0])
            assert project.record("prints")["lastStep"] == last["step"]
        elif block.kind in ("json", "toml"):
            self.hold_settings(block)
        else:
            assert self.place.shown is not None, f"line {block.line}: no command is before this output"
            assert_shown(block.text, self.place.shown)

    def hold_settings(self, block: Block) -> None:
        """Every value is the one that `backprop config show` finds in that file."""
        place = self.fresh()
        place.env["BACKPROP_GPU_PROBE"] = None
        file = "backprop.config.json" if block.kind == "json" else "backprop.toml"
        (place.project.folder / file).write_text(block.text)
        shown = place.backprop("config", "show", "--json").json
        table = json.loads(block.text) if block.kind == "json" else tomllib.loads(block.text)
        from_file = [each["value"] for each in shown.values() if file in str(each["origin"])]
        assert sorted(map(as_text, from_file)) == sorted(map(as_text, values_in(table)))

    def clean_up(self) -> None:
        for place in self.places:
            place.project.clean_up()


def values_in(table: dict[str, object]) -> Iterator[object]:
    for value in table.values():
        if isinstance(value, dict):
            yield from values_in(value)
        else:
            yield value


def as_text(value: object) -> str:
    """A number reads the same whether it was written as a whole one or not."""
    return str(float(value)) if isinstance(value, int | float) else str(value)


def assert_shown(text: str, shown: str) -> None:
    """The words stand in the output, however its lines are wrapped, and whatever its paths, ids and numbers are."""
    pattern = " ".join(map(like, text.split()))
    assert re.search(pattern, " ".join(shown.split())), shown


def like(word: str) -> str:
    """Return a pattern for words that differ in what is another one each time."""
    if word.lstrip("(").startswith("/"):
        return r"\(?/\S+"
    parts = re.split(r"([\w-]*\d[\w-]*)", word)
    return "".join(r"[\w-]+" if number % 2 else re.escape(part) for number, part in enumerate(parts))


def is_executed_here(block: Block) -> bool:
    return not {"tested", "not run", "from the script"} & set(block.notes)


@pytest.mark.soak
@pytest.mark.parametrize("page", PLAYED, ids=name)
def test_the_blocks_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    played = Page(page, tmp_path)
    try:
        for block in blocks(page):
            if is_executed_here(block):
                played.play(block)
    finally:
        played.clean_up()


# --- what is executed elsewhere, or not at all ----------------------------------------------------


@pytest.mark.parametrize("page", PLAYED, ids=name)
def test_lines_from_a_script_stand_in_the_script_that_the_page_shows(page: Path) -> None:
    scripts = "\n".join(block.text for block in blocks(page) if block.kind == "python")
    for block in blocks(page):
        if "from the script" in block.notes:
            for line in block.lines:
                missing = [part for part in line.split("...") if part.strip(" ,") not in scripts]
                assert missing == [], f"line {block.line}"


@pytest.mark.parametrize("page", PLAYED, ids=name)
def test_text_is_the_output_of_a_command_or_says_what_else_it_is(page: Path) -> None:
    has_run = False
    for block in blocks(page):
        is_here = is_executed_here(block)
        assert has_run or not is_here or block.kind != "text", f"line {block.line}: what is it?"
        assert not block.first_line.startswith("backprop ") or block.kind == "sh", f"line {block.line}: is sh"
        has_run |= is_here and block.kind == "sh" and "each line" not in block.notes


@pytest.mark.parametrize("page", PLAYED, ids=name)
def test_what_another_test_is_said_to_execute_is_named_there(page: Path) -> None:
    for block in blocks(page):
        if "tested" in block.notes:
            text = (ROOT / block.notes["tested"]).read_text("utf-8")
            named = {f'"{page.stem}"', *(line.partition("  #")[0] for line in block.lines)}
            assert any(each in text for each in named if each), f"line {block.line}: {block.first_line}"


def test_what_nobody_executes_is_known_and_says_why() -> None:
    not_run = [(page, block) for page in PAGES for block in blocks(page) if "not run" in block.notes]
    assert {(name(page), block.first_line) for page, block in not_run} == NOT_RUN
    assert all(len(block.notes["not run"].split()) > 4 for _, block in not_run)
