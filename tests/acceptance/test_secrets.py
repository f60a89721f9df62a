"""Secrets in arguments and URLs are stored, for resuming needs them, and never shown; the environment is not stored."""

from __future__ import annotations

import json

from kit import Project

SECRETS = ["hunter2", "hf_abcdefghijklmnop", "sk-abcdefghijklmnop"]
ARGUMENTS = [
    "--token=hunter2",
    "--api-key",
    "hunter2",
    SECRETS[1],
    SECRETS[2],
    "https://me:hunter2@host/data",
    "--lr",
    "0.1",
]


def test_no_command_shows_a_secret_that_an_argument_holds(project: Project) -> None:
    project.write("train.py", "import sys; sys.exit(3)")
    env = {"SECRET_OF_MINE": "hunter3", "WANDB_API_KEY": "hunter3"}
    said = [
        project.call("run", "train.py", "--dry-run", "--", *ARGUMENTS, env=env),
        project.call("run", "train.py", "--name", "mine", "--", *ARGUMENTS, env=env),
        project.call("status", "mine"),
        project.call("list"),
        project.call("resume", "mine", "--dry-run"),
        project.call("rm", "mine", "--dry-run"),
    ]
    shown = "".join(done.out + done.err for done in said)
    assert "--lr 0.1" in shown
    assert [secret for secret in (*SECRETS, "hunter3") if secret in shown] == []
    assert project.record()["scriptArgs"] == ARGUMENTS
    assert json.loads(project.call("status", "mine", "--json").out)["scriptArgs"] == ARGUMENTS
    kept = b"".join(path.read_bytes() for path in project.home.rglob("*") if path.is_file())
    assert b"hunter3" not in kept, "no variable of the environment is recorded"


def test_a_storage_url_with_a_password_is_shown_without_it_and_never_on_a_command_line(
    project: Project,
) -> None:
    url = "nosuch://me:hunter2@host/db"
    project.write("train.py", "print('done')")
    done = project.call("run", "train.py", "--storage", url)
    assert (done.code, "hunter2" in done.err) == (2, False)
    project.write("backprop.toml", f'storage = "{url}"')
    shown = project.call("config", "show").out
    assert "nosuch://me:***@host/db" in shown
    assert project.call("list").code == 2
    assert "hunter2" not in project.call("list").err


SEEN = """
    from backprop_builtin.storage.json_file import JsonBackend
    from backprop_core import hookimpl

    class Backend:
        name, schemes = "web", ("web",)

        def open(self, url, home):
            assert url == "web://me:hunter2@host/db"
            return JsonBackend().open(None, home)

    @hookimpl
    def backprop_storage_backend():
        return Backend()
"""


def test_the_agent_of_a_detached_run_is_told_such_a_url_where_no_other_user_looks(project: Project) -> None:
    project.write("web.py", SEEN)
    project.write("backprop.toml", 'plugins = ["web"]\nstorage = "web://me:hunter2@host/db"')
    project.write(
        "train.py",
        """
        import os
        agent = os.environ["BACKPROP_RUN_ID"]
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                line = open(f"/proc/{pid}/cmdline").read()
            except OSError:
                continue
            if agent in line and "hunter2" in line:
                raise SystemExit(9)
        """,
    )
    assert project.run("run", "train.py", "--detach", "--run-id", "r").code == 0
    assert project.run("logs", "r", "-f").code == 0
    assert project.wait_for_state("completed", "r")["exitCode"] == 0
