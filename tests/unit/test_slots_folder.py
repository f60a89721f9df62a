"""Where a machine's slots lie: in the home, or beside it where that is on a network disk, and nobody planted it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit import mode

from backprop_core.errors import StorageError
from backprop_core.locks import is_on_network
from backprop_core.slots import (
    host_folder,
)

NFS_HOME = "/dev/sda1 / ext4 rw 0 0\nserver:/home {mount} nfs4 rw 0 0\n"


@pytest.fixture
def nfs_home(tmp_path: Path) -> tuple[Path, Path]:
    """Make a home that a file of mounts says is on NFS; return both."""
    home, mounts = tmp_path / "home", tmp_path / "mounts"
    home.mkdir()
    mounts.write_text(NFS_HOME.format(mount=home))
    return home, mounts


@pytest.mark.parametrize(
    ("hostname", "folder"),
    [
        ("box", "box"),
        ("gpu 1/a\n", "gpu-1-a-"),
        ("../..", "localhost"),
        ("é", "localhost"),
        ("n" * 300, "n" * 128),
    ],
)
def test_each_host_has_a_folder_whose_name_is_harmless(tmp_path: Path, hostname: str, folder: str) -> None:
    assert host_folder(tmp_path, hostname) == tmp_path / "hosts" / folder
    assert host_folder(tmp_path, hostname).is_dir()


def test_this_host_is_the_one_unless_told_otherwise(tmp_path: Path) -> None:
    assert host_folder(tmp_path).parent == tmp_path / "hosts"
    assert host_folder(tmp_path) == host_folder(tmp_path, os.uname().nodename)


def test_home_on_a_network_disk_has_its_slots_on_this_machine(
    nfs_home: tuple[Path, Path], tmp_path: Path
) -> None:
    home, mounts = nfs_home
    folder = host_folder(home, mounts=mounts, machine_temp=tmp_path)
    assert folder.parent == tmp_path
    assert folder.name.startswith("backprop-")
    assert mode(folder) == 0o700
    assert host_folder(home, mounts=mounts, machine_temp=tmp_path) == folder
    other = home / "other"
    other.mkdir()
    assert host_folder(other, mounts=mounts, machine_temp=tmp_path) != folder
    assert list(home.iterdir()) == [other]


def test_runtime_directory_serves_where_there_is_no_local_var_tmp(
    nfs_home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, mounts = nfs_home
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for useless in (tmp_path / "missing", home):
        with pytest.raises(StorageError, match="network file system"):
            host_folder(home, mounts=mounts, machine_temp=useless)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert host_folder(home, mounts=mounts, machine_temp=tmp_path / "missing").parent == tmp_path


@pytest.mark.parametrize("planted", ["link", "file", "open to all"])
def test_folder_that_somebody_else_could_have_planted_is_refused(
    nfs_home: tuple[Path, Path], tmp_path: Path, planted: str
) -> None:
    home, mounts = nfs_home
    folder = host_folder(home, mounts=mounts, machine_temp=tmp_path)
    folder.rmdir()
    if planted == "link":
        folder.symlink_to(home)
    elif planted == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(StorageError, match="this user alone"):
        host_folder(home, mounts=mounts, machine_temp=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(nfs_home: tuple[Path, Path], tmp_path: Path) -> None:
    home, mounts = nfs_home
    os.chown(host_folder(home, mounts=mounts, machine_temp=tmp_path), 12345, 12345)
    with pytest.raises(StorageError, match="this user alone"):
        host_folder(home, mounts=mounts, machine_temp=tmp_path)


def test_home_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="hosts"):
        host_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("", False),
        ("/dev/sda1 / ext4 rw 0 0\n", False),
        ("srv:/ / nfs rw 0 0\n", True),
        ("srv:/ / nfs rw 0 0\n/dev/sda1 {place} xfs rw 0 0\n", False),
        ("/dev/sda1 {place} xfs rw 0 0\nsrv:/ / nfs rw 0 0\n", False),
        ("/dev/sda1 / ext4 rw 0 0\nsrv:/ {place}with-a-longer-name nfs rw 0 0\n", False),
        ("/dev/sda1 {place} ext4 rw 0 0\nme@srv: {place} fuse.sshfs rw 0 0\n", True),
        ("auto.home {place} autofs rw 0 0\nsrv:/ {place} nfs4 rw 0 0\n", True),
        ("\n/dev/sda1 / ext4 rw 0 0\nsrv:/ {place}/a\\040b nfs4 rw 0 0\n", False),
    ],
)
def test_file_system_is_that_of_the_deepest_and_newest_mount(
    tmp_path: Path, mounts: str, *, expected: bool
) -> None:
    (tmp_path / "mounts").write_text(mounts.format(place=tmp_path))
    assert is_on_network(tmp_path / "home", tmp_path / "mounts") is expected


def test_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"srv:/ {tmp_path}/a\\040b nfs4 rw 0 0\n")
    assert is_on_network(tmp_path / "a b" / "home", tmp_path / "mounts")
    assert not is_on_network(tmp_path / "a b", tmp_path / "no-mounts")
