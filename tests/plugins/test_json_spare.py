"""The file that `experiments.json` was before is what it will be next, and nobody who reads either sees a change."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_builtin.storage import _spare
from backprop_builtin.storage._files import PIECE
from backprop_builtin.storage._spare import put_in_turn, spare_of
from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_core.testing import make_record

LIMIT_S = 30.0
ENDLESS = "import signal; print('ready', flush=True); signal.pause()"
HOLDER = """
import fcntl, os, signal, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
signal.sigwait([signal.SIGURG])  # until somebody wants to open it
time.sleep(0.05)
os.close(file)
signal.pause()
"""


def has_leases(folder: Path) -> bool:
    file = os.open(folder / "leased", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except (OSError, AttributeError):
        return False
    finally:
        os.close(file)
        os.unlink(folder / "leased")
    return True


@pytest.fixture
def home(tmp_path: Path) -> Path:
    if not has_leases(tmp_path):
        pytest.skip("the file system of the temporary folder has no leases: every file is written anew there")
    return tmp_path / "home"


@pytest.fixture
def storage(home: Path) -> Iterator[JsonStorage]:
    with closing(JsonBackend().open(None, home)) as opened:
        opened.save(make_record("first"))
        opened.save(make_record("second"))
        yield opened


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.json"


def inode(path: Path) -> int:
    return path.stat().st_ino


def stored(file: Path) -> set[str]:
    return set(json.loads(file.read_text()))


def test_the_two_files_take_turns(storage: JsonStorage, file: Path) -> None:
    turns = []
    for number in range(4):
        storage.save(make_record(f"r{number}"))
        turns.append((inode(file), inode(spare_of(file))))
    assert turns[0] == turns[2] == turns[1][::-1] == turns[3][::-1]
    assert stored(file) == {"first", "second", "r0", "r1", "r2", "r3"}
    assert stored(spare_of(file)) == {"first", "second", "r0", "r1", "r2"}
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(spare_of(file).stat().st_mode) == 0o600


def test_only_what_differs_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    file = home / "file"
    written: list[int] = []

    def write_all(descriptor: int, content: bytes) -> None:
        written.append(len(content))
        os.write(descriptor, content)

    text = os.urandom(20 * PIECE)
    for number in range(3):
        put_in_turn(file, (text, b"%d" % number))
    monkeypatch.setattr(_spare, "write_all", write_all)
    put_in_turn(file, (text[: 7 * PIECE], b"x", text[7 * PIECE + 1 :], b"3"))
    assert file.read_bytes() == text[: 7 * PIECE] + b"x" + text[7 * PIECE + 1 :] + b"3"
    assert written == [1, 1]


@pytest.mark.parametrize("way", ["open", "mapped"])
def test_who_reads_sees_one_version_however_many_are_written_meanwhile(
    storage: JsonStorage, file: Path, way: str
) -> None:
    before = file.read_bytes()
    with ExitStack() as reading:
        opened = file.open("rb")
        reading.callback(opened.close)
        read = opened.read
        if way == "mapped":
            read = reading.enter_context(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)).read
            opened.close()
        for number in range(4):
            storage.save(make_record(f"r{number}"))
        assert read() == before
    assert stored(file) == {"first", "second", "r0", "r1", "r2", "r3"}


def test_a_version_that_another_process_has_open_is_left_to_it(storage: JsonStorage, file: Path) -> None:
    with (
        spare_of(file).open("rb") as opened,
        subprocess.Popen([sys.executable, "-c", ENDLESS], stdin=opened, stdout=subprocess.PIPE) as other,
    ):
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
            before = opened.read()
            opened.close()
            storage.save(make_record("third"))
            assert Path(f"/proc/{other.pid}/fd/0").read_bytes() == before
        finally:
            other.kill()
    assert stored(file) == {"first", "second", "third"}


def a_link(spare: Path, precious: Path) -> None:
    spare.symlink_to(precious)


def a_second_name(spare: Path, precious: Path) -> None:
    os.link(precious, spare)


def a_file_that_others_may_read(spare: Path, precious: Path) -> None:
    precious.rename(spare)
    spare.chmod(0o644)
    os.link(spare, precious)


def a_pipe(spare: Path, _: Path) -> None:
    os.mkfifo(spare)


def a_folder(spare: Path, _: Path) -> None:
    spare.mkdir()


@pytest.mark.parametrize(
    "plant",
    [a_link, a_second_name, a_file_that_others_may_read, a_pipe, a_folder],
    ids=lambda plant: plant.__name__,
)
def test_what_is_no_spare_of_ours_is_not_written_into(
    storage: JsonStorage, file: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    precious.chmod(0o600)
    spare_of(file).unlink()
    plant(spare_of(file), precious)
    storage.save(make_record("third"))
    storage.save(make_record("fourth"))
    assert stored(file) == {"first", "second", "third", "fourth"}
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("left", [b"", b"{", b"\0" * 100_000, b'{\n"first": {}\n}\n'])
def test_nothing_is_taken_from_a_spare_unseen(storage: JsonStorage, file: Path, left: bytes) -> None:
    spare_of(file).write_bytes(left)
    storage.save(make_record("third"))
    assert stored(file) == {"first", "second", "third"}
    assert {record.id for record in storage.runs()} == {"first", "second", "third"}
    assert storage.flaws() == []


def test_a_run_that_is_removed_is_in_no_file(storage: JsonStorage, home: Path) -> None:
    for _ in range(3):
        storage.save(make_record("secret", name="nobody-else-knows"))
    storage.save(make_record("third"))
    storage.delete("secret")
    assert [
        path for path in home.rglob("*") if path.is_file() and b"nobody-else-knows" in path.read_bytes()
    ] == []
    storage.save(make_record("fourth"))
    assert {record.id for record in storage.runs()} == {"first", "second", "third", "fourth"}


@pytest.mark.parametrize("refused", ["F_SETLEASE", "F_SETSIG"])
def test_a_file_system_without_leases_has_every_file_written_anew(
    storage: JsonStorage, file: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    plain = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == getattr(fcntl, refused):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return plain(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    seen = {inode(file), inode(spare_of(file))}
    storage.save(make_record("third"))
    assert inode(file) not in seen
    spare_of(file).unlink()
    storage.save(make_record("fourth"))
    assert not spare_of(file).exists(), "one that is never used would only take room"
    assert stored(file) == {"first", "second", "third", "fourth"}


def test_a_file_system_on_which_a_file_has_one_name_has_no_spare(
    storage: JsonStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    for name in ("third", "fourth"):
        storage.save(make_record(name))
    assert stored(file) == {"first", "second", "third", "fourth"}
    assert not spare_of(file).exists()


def test_who_opens_the_spare_while_it_is_written_waits_and_ends_nobody(home: Path) -> None:
    home.mkdir()
    file = home / "file"
    for text in (b"one", b"two"):
        put_in_turn(file, (text,))
    readers: list[subprocess.Popen[bytes]] = []

    def content() -> Iterator[bytes]:
        yield b"the "
        reader = subprocess.Popen(["cat", str(spare_of(file))], stdout=subprocess.PIPE)
        readers.append(reader)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits, and we have been told so by a signal
            reader.wait(0.5)
        yield b"third"

    put_in_turn(file, content())
    assert readers[0].communicate(timeout=LIMIT_S)[0] == file.read_bytes() == b"the third"


def test_a_file_that_is_leased_for_a_moment_is_read_after_it(storage: JsonStorage, file: Path) -> None:
    storage.close()
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            with pytest.raises(BlockingIOError):
                os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            with closing(JsonBackend().open(None, file.parent)) as other:
                assert other.get("first") == make_record("first")
        finally:
            holder.kill()


@given(st.lists(st.lists(st.binary(max_size=9), max_size=5), max_size=6))
@settings(max_examples=50, deadline=None)
def test_whatever_was_there_the_file_is_what_was_written_last(versions: list[list[bytes]]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "file")
        for content in versions:
            put_in_turn(file, content)
            assert file.read_bytes() == b"".join(content)
