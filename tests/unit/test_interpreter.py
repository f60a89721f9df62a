"""The Python that runs the script is found, and asked what is installed for it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_python import python_that, python_with

from backprop_core import UsageError, versions_in
from backprop_core.description import find_interpreter
from backprop_core.description import interpreter as interpreter_module
from backprop_core.description.interpreter import is_tool_environment


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which Backprop itself is a uv tool, so that its own Python is no choice."""
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "uv-receipt.toml").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "tool"))
    return tmp_path


def python_in(folder: Path, name: str = "python") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(sys.executable)
    return str(folder / name)


class TestInterpreter:
    def test_the_order_is_option_venv_conda_project_own(self, tmp_path: Path) -> None:
        given = python_in(tmp_path / "given", "mypython")
        venv = python_in(tmp_path / "venv" / "bin")
        conda = python_in(tmp_path / "conda" / "bin")
        project = python_in(tmp_path / ".venv" / "bin")
        environ = {"VIRTUAL_ENV": str(tmp_path / "venv"), "CONDA_PREFIX": str(tmp_path / "conda")}
        chosen = [find_interpreter(given, tmp_path, environ)]
        chosen.append(find_interpreter(None, tmp_path, environ))
        del environ["VIRTUAL_ENV"]
        chosen.append(find_interpreter(None, tmp_path, environ))
        chosen.append(find_interpreter(None, tmp_path, {}))
        chosen.append(find_interpreter(None, None, {}))
        assert [(each.path, each.origin) for each in chosen] == [
            (given, "--python"),
            (venv, "VIRTUAL_ENV"),
            (conda, "CONDA_PREFIX"),
            (project, ".venv"),
            (sys.executable, "Backprop's own"),
        ]

    def test_a_tools_own_environment_gives_way_to_python3_on_path(self, bare: Path) -> None:
        python = python_in(bare / "bin", "python3")
        found = find_interpreter(None, bare, {"PATH": f"relative:{bare / 'empty'}:{bare / 'bin'}"})
        assert (found.path, found.origin) == (python, "PATH")

    def test_without_any_python_it_says_so(self, bare: Path) -> None:
        with pytest.raises(UsageError, match="no Python") as caught:
            find_interpreter(None, bare, {"PATH": str(bare / "empty")})
        assert "--python" in (caught.value.hint or "")

    def test_an_environment_that_is_gone_is_passed_over(self, tmp_path: Path) -> None:
        environ = {"VIRTUAL_ENV": str(tmp_path / "deleted"), "CONDA_PREFIX": ""}
        assert find_interpreter(None, None, environ).path == sys.executable

    def test_a_chosen_name_is_looked_up_on_path(self, tmp_path: Path) -> None:
        python = python_in(tmp_path / "bin", "python3.99")
        assert find_interpreter("python3.99", None, {"PATH": str(tmp_path / "bin")}).path == python

    def test_a_chosen_path_is_made_absolute_and_its_link_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        python = python_in(tmp_path / "env" / "bin")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for chosen in ("env/bin/python", "~/env/bin/python"):
            assert find_interpreter(chosen, None, {}).path == python

    @pytest.mark.parametrize(
        "chosen", ["python9", "no/such/python", "~nobody-here/python", "/", "./train.py"]
    )
    def test_a_chosen_python_that_is_not_there_is_a_usage_error_that_names_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "train.py").write_text("not executable")
        with pytest.raises(UsageError) as caught:
            find_interpreter(chosen, None, {"PATH": str(tmp_path)})
        assert chosen in caught.value.message
        assert caught.value.exit_code == 2

    def test_tool_environments_are_known_by_their_place(self) -> None:
        tools = {
            "/home/u/.local/share/pipx/venvs/backprop-core",
            "/home/u/.cache/pipx/.cache/4f2",
            "/home/u/.local/share/uv/tools/backprop-core",
            "/home/u/.cache/uv/archive-v0/abc",
        }
        others = {"/home/u/pipx/.venv", "/home/u/uv/project/tools", "/usr"}
        assert {prefix for prefix in tools | others if is_tool_environment(Path(prefix))} == tools

    @pytest.mark.parametrize("mark", ["pipx_metadata.json", "uv-receipt.toml"])
    def test_tool_environments_elsewhere_are_known_by_what_their_tool_left(
        self, tmp_path: Path, mark: str
    ) -> None:
        assert not is_tool_environment(tmp_path)
        (tmp_path / mark).touch()
        assert is_tool_environment(tmp_path)


def wait_until_ended(pid: int) -> None:
    """Wait for a process that is no child of this one."""
    limit = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < limit, "still running"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestVersions:
    def test_they_are_read_in_the_interpreter_that_will_run_the_script(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        python_with(tmp_path / "here", {"in-the-current-folder": "1"})
        monkeypatch.chdir(tmp_path / "here" / "site")
        python = python_with(tmp_path, {"torch": "2.9.1+cu130"})
        names = ["torch", "no-such-thing", "in-the-current-folder", "msgspec"]
        found = versions_in(python, names)
        assert list(found) == names
        assert found["torch"] == "2.9.1+cu130"
        assert found["no-such-thing"] is None
        assert found["in-the-current-folder"] is None
        assert found["msgspec"] == versions_in(sys.executable, ["msgspec"])["msgspec"] is not None

    def test_what_a_sitecustomize_prints_is_no_answer(self, tmp_path: Path) -> None:
        python = python_with(tmp_path, {"torch": "2.9.1"})
        (tmp_path / "site" / "sitecustomize.py").write_text("print('[\"9.9\"]')")
        assert versions_in(python, ["torch"]) == {"torch": "2.9.1"}

    @pytest.mark.parametrize(
        "script", ["exit 1", "echo nonsense", "echo '[]'", "echo '{}'", "echo 7", "echo '[[]]'", "kill -9 $$"]
    )
    def test_an_interpreter_that_does_not_answer_leaves_them_unknown(
        self, tmp_path: Path, script: str
    ) -> None:
        assert versions_in(python_that(tmp_path, script), ["torch"]) == {"torch": None}

    def test_an_interpreter_that_is_not_there_leaves_them_unknown(self, tmp_path: Path) -> None:
        assert versions_in(str(tmp_path / "python"), ["torch", "jax"]) == {"torch": None, "jax": None}

    def test_an_interpreter_that_hangs_is_ended_with_its_children(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(interpreter_module, "ANSWER_TIMEOUT_S", 0.3)
        # A wrapper whose child holds the pipe open: ending the wrapper alone would not be enough.
        python = python_that(tmp_path, f"sleep 60 & echo $! > {tmp_path / 'pid'}; wait")
        begin = time.monotonic()
        assert versions_in(python, ["torch"]) == {"torch": None}
        assert time.monotonic() - begin < 10
        wait_until_ended(int((tmp_path / "pid").read_text()))
