"""The home fills up or becomes read-only while a script runs, or is so from the start: the run's work is not lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit import Done, Project, command

SIZE_KB = 1024

TRAINS = """
    import fcntl, json, os, struct, subprocess, sys, termios, time
    home = os.environ["BACKPROP_RUN_DIR"].rpartition("/runs/")[0]

    def say(**values):
        print(json.dumps(values), flush=True)

    def fill():
        with open(os.path.join(home, "filler"), "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def wait_until_read():
        while struct.unpack("i", fcntl.ioctl(1, termios.FIONREAD, bytes(4)))[0]:
            time.sleep(0.005)

    def take_turns(step):
        for _ in range(2):  # the second is read when the first has been dealt with
            say(step=step, loss=0.25)
            wait_until_read()

    def make_read_only():  # for whoever opens a file there from now on
        subprocess.run(["mount", "--bind", home, home], check=True)
        end_s = time.monotonic() + 10
        while subprocess.run(["mount", "-o", "remount,bind,ro", home], stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < end_s  # refused while a file is just being written there
            time.sleep(0.01)

    take_turns(1)
    fill() if sys.argv[1] == "fill" else make_read_only()
    for number in range(200):
        say(step=2 + number, loss=0.25)
        say(event="checkpoint_saved", path=f"ckpt-{number}.pt")
    open("trained", "w").close()
    take_turns(201)
    if sys.argv[2:] == ["free"]:
        os.unlink(os.path.join(home, "filler"))
"""


@pytest.fixture
def small(project: Project) -> Project:
    """A project whose home is a small file system of its own, in a mount namespace of each command."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    project.home.mkdir(0o700)
    probe = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(project.home)],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.strip()}")
    project.write("train.py", TRAINS)
    return project


def run_in_small_home(project: Project, *lines: Sequence[str]) -> list[Done]:
    """Run commands one after the other in one small home; a line that begins with `sh` is a shell's."""
    script = [f'mount -t tmpfs -o size={SIZE_KB}k,mode=700 tmpfs "{project.home}" || exit 99']
    ends = project.place / "ends"
    ends.mkdir()
    for number, line in enumerate(lines):
        words = line[1] if line[0] == "sh" else subprocess.list2cmdline([*command(), *line])
        script.append(
            f"({words}) >{ends}/{number}.out 2>{ends}/{number}.err </dev/null; echo $? >{ends}/{number}.code"
        )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", "\n".join(script)],
        cwd=project.folder,
        env=project.environ(),
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    found = []
    for number in range(len(lines)):
        code, out, err = ((ends / f"{number}.{kind}").read_text() for kind in ("code", "out", "err"))
        assert "Traceback" not in err, err
        found.append(Done(int(code), out, err))
    return found


@pytest.mark.parametrize("storage", ["json", "sqlite"])
def test_run_whose_home_fills_up_trains_on_and_the_loss_is_said_once_and_counted(
    small: Project, storage: str
) -> None:
    run = ["run", "train.py", "--force", "--storage", storage]
    done, freed, listed, shown = run_in_small_home(
        small,
        [*run, "--run-id", "full", "--", "fill"],
        ["sh", f'rm "{small.home}/filler"'],
        ["list", "--storage", storage],
        ["status", "full", "--storage", storage],
    )
    assert (small.folder / "trained").exists()
    assert done.code == 0, done.err
    assert done.err.count("what cannot be written is lost") == 1
    assert "completed" in done.err
    assert "its end could not be recorded, nor " in done.err
    assert freed.code == listed.code == shown.code == 0
    assert "lost" in shown.out, "the next command finds a run without a supervisor"


@pytest.mark.parametrize("storage", ["json", "sqlite"])
def test_run_whose_home_has_room_again_before_its_end_is_recorded_with_what_it_lost(
    small: Project, storage: str
) -> None:
    run = ["run", "train.py", "--force", "--storage", storage]
    done, shown = run_in_small_home(
        small,
        [*run, "--run-id", "freed", "--", "fill", "free"],
        ["status", "freed", "--json", "--storage", storage],
    )
    assert done.code == 0, done.err
    assert "its end is recorded; " in done.err
    assert '"status": "completed"' in shown.out
    assert '"lastStep": 201' in shown.out
    assert '"lostWrites": 0' not in shown.out


def test_run_whose_home_becomes_read_only_trains_on_and_says_so_once(small: Project) -> None:
    done, listed = run_in_small_home(
        small, ["run", "train.py", "--force", "--run-id", "ro", "--", "remount"], ["list"]
    )
    assert (small.folder / "trained").exists()
    assert done.code == 0, done.err
    assert done.err.count("what cannot be written is lost") == 1
    assert "its end could not be recorded" in done.err
    assert "ro" in listed.out, "what is there can be read"


def test_home_that_is_read_only_or_full_from_the_start_starts_nothing_and_says_why(small: Project) -> None:
    small.write("quick.py", "open('ran', 'w').close()")
    read_only, listed, again, _, full, machine = run_in_small_home(
        small,
        ["sh", f'mount -o remount,ro "{small.home}"'],
        ["list"],
        ["run", "quick.py", "--force"],
        [
            "sh",
            f'mount -o remount,rw "{small.home}"; head -c {2 * SIZE_KB}k /dev/zero >"{small.home}/filler"',
        ],
        ["run", "quick.py", "--force"],
        ["run", "quick.py"],
    )
    assert read_only.code == listed.code == 0, listed.err
    assert again.code == 2
    assert "Read-only file system" in again.err
    assert full.code == 2
    assert "No space left on device" in full.err
    assert machine.code in (2, 75), "the rule about disks would not let it start either"
    assert not (small.folder / "ran").exists()


@pytest.mark.parametrize("home", ["", "relative/path"])
def test_without_a_home_folder_nothing_is_written_anywhere(project: Project, home: str) -> None:
    project.write("quick.py", "open('ran', 'w').close()")
    for words in (["list"], ["run", "quick.py"]):
        done = project.run(*words, env={"HOME": home, "BACKPROP_HOME": None})
        assert done.code == 2
        assert "set HOME or BACKPROP_HOME" in done.err
    assert not Path("/.backprop").exists()
    assert [path.name for path in project.folder.iterdir()] == ["quick.py"]
