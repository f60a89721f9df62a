"""`backprop plugins new`: what it writes installs, passes its own tests and lint, and takes part in a run."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from kit import Project

from backprop_core.checking import asking
from backprop_core.scaffold import KINDS, LONGEST, write

ROOT = Path(__file__).parents[2]
GPUS = [{"index": 0, "vram_free_mb": 3000}, {"index": 1, "vram_free_mb": 8000}]
TRAIN = """
    import os
    print("step=3 loss=0.25", os.nice(0), os.environ.get("CUDA_VISIBLE_DEVICES"))
"""
# What is given to `run`, and what is then seen of the plugin in record, output and errors.
USES: dict[str, tuple[list[str], str]] = {
    "probe": (["--gpu-probe", "mine", "--mine-file", "gpus.json"], "step=3 loss=0.25 0 1"),
    "storage": (["--storage", "mine"], '"record":{"id":'),
    "parser": ([], '"lastStep":3'),
    "framework": (["--framework", "mine"], '"framework":"mine"'),
    "launcher": (["--launcher", "mine", "--mine-level", "7"], "step=3 loss=0.25 7"),
    "rule": (["--mine-gb", "1e9"], "GB free, 1e+09 GB needed"),
    "observer": (["--mine-file", "ended.csv"], "completed,1,"),
}


class Environment:
    """A virtual environment that also sees everything of the one that the tests run in."""

    def __init__(self, place: Path) -> None:
        self.python = place / "bin" / "python"
        self._run(sys.executable, "-m", "venv", "--without-pip", str(place))
        here, there = sysconfig.get_path("purelib"), self._run(str(self.python), "-c", _WHERE).strip()
        Path(there, "parent.pth").write_text(f"import site; site.addsitedir({here!r})\n")

    def install(self, folder: Path) -> None:
        self._run(
            *(sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", str(folder)),
        )

    def run(self, *words: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), "-m", *words],
            cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **more,
        )  # fmt: skip

    @staticmethod
    def _run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


_WHERE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def whole_way(project: Project, kind: str) -> None:
    """Start a plugin, check it, install it, run its tests, and use it in a run."""
    pytest.importorskip("hatchling", reason="building a distribution without the network needs hatchling")
    started = project.run("plugins", "new", "mine", "--kind", kind)
    assert (started.code, "pytest ./backprop-mine" in started.out) == (0, True)
    folder = project.folder / "backprop-mine"
    checked = project.run("plugins", "check", "backprop-mine")
    assert (checked.code, "nothing to mend" in checked.out) == (0, True), checked.out
    environment = Environment(project.place / "environment")
    environment.install(folder)
    tested = environment.run("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    words, seen = USES[kind]
    project.write("train.py", TRAIN)
    project.write("gpus.json", json.dumps(GPUS))
    ran = environment.run(
        "backprop_core", "run", "train.py", *words,
        cwd=project.folder, env=project.environ({"BACKPROP_DISABLE_PLUGIN_AUTOLOAD": None}),
    )  # fmt: skip
    assert ran.returncode == (75 if kind == "rule" else 0), ran.stdout + ran.stderr
    left = [*project.home.rglob("*.json"), *project.home.rglob("output.log"), *project.folder.glob("*.csv")]
    assert seen in "\n".join([ran.stdout, ran.stderr, *(path.read_text() for path in left)])


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_installs_passes_its_tests_and_takes_part_in_a_run(project: Project, kind: str) -> None:
    whole_way(project, kind)


def ruff(*words: str | Path) -> str:
    """What ruff has against files; nothing when all is well."""
    done = subprocess.run(["ruff", *map(str, words)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout


def test_what_is_written_passes_lint_whatever_its_name_and_is_formatted(tmp_path: Path) -> None:
    longest = "a-name-that-is-as-long-as-it-m"
    assert len(longest) == LONGEST
    for kind in KINDS:
        for name in ("x", f"backprop-my-{kind}"):
            write(name, kind, tmp_path / "short" / kind)
        write(longest, kind, tmp_path / "long" / kind)
    assert ruff("check", "--no-cache", tmp_path) == ""
    assert ruff("format", "--check", "--no-cache", tmp_path / "short") == ""


@pytest.mark.parametrize("kind", ["storage", "launcher", "parser"])
def test_what_is_written_has_nothing_to_mend(kind: str, tmp_path: Path) -> None:
    [report] = asking.check(str(write("fresh", kind, tmp_path)), tmp_path)
    assert (report.name, report.problems) == ("fresh", ())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Mine"], "'Mine' is no name for a plugin"),
        (["a" * 31], "at most 30"),
        (["mine", "--kind", "prob"], "there is no kind 'prob' of plugin"),
        (["mine", "--into", "taken"], "is there already"),
        (["mine", "--into", "file"], "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_told_in_two_lines(project: Project, words: list[str], said: str) -> None:
    (project.folder / "taken" / "backprop-mine").mkdir(parents=True)
    (project.folder / "file").touch()
    before = sorted(project.folder.rglob("*"))
    done = project.run("plugins", "new", *words)
    assert (done.code in (1, 2), said in done.err, len(done.err.splitlines()) <= 2) == (True, True, True)
    assert sorted(project.folder.rglob("*")) == before
