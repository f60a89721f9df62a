"""Messages reach a real server, whatever it does at first; one that does nothing delays nobody."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from backprop_core import RunState
from backprop_core.testing import Project, make_record, wait_for
from backprop_notify import channels
from backprop_notify.channels import channels_in
from backprop_notify.message import Message, message_of
from backprop_notify.sending import Post

SECRET = "s3cr3t-path"


@dataclass
class Inbox:
    """A server that answers with the codes it is given, then with 200; "hang" answers nothing until the test ends."""

    url: str = ""
    codes: list[int | str] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.got.append((dict(self.headers), body))
            code = inbox.codes.pop(0) if inbox.codes else 200
            if code == "hang":
                inbox.over.wait(30)
                return
            self.send_response(int(code))
            if code == 302:
                self.send_header("Location", f"{inbox.url}/elsewhere")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbox.url = f"http://127.0.0.1:{server.server_address[1]}/{SECRET}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield inbox
    inbox.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def refused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/{SECRET}"


@pytest.fixture
def message() -> Message:
    record = make_record("r-1", name="büro <x> & y", status=RunState.FAILED, last_step=7, last_loss=0.12345)
    return message_of("finished", record, "exit code 3")


@pytest.fixture
def send(message: Message) -> Callable[..., list[str]]:
    """Send one message by the channels that an environment sets up; return what was not delivered."""

    def sent(limit_s: float = 10.0, **environment: str) -> list[str]:
        post = Post(channels_in({f"BACKPROP_NOTIFY_{k}": v for k, v in environment.items()}, desktop=False))
        post.send(message)
        return post.close(limit_s)

    return sent


# --- what is sent --------------------------------------------------------------------------------


def test_webhook_gets_the_event_and_the_run(inbox: Inbox, send: Callable[..., list[str]]) -> None:
    assert send(WEBHOOK_URL=inbox.url) == []
    [body] = inbox.bodies()
    assert body["event"] == "finished"
    assert body["text"] == "büro <x> & y: failed (step 7, loss 0.1235, exit code 3)"
    assert body["run"] == {
        "id": "r-1",
        "name": "büro <x> & y",
        "status": "failed",
        "reason": None,
        "exitCode": None,
        "lastStep": 7,
        "lastLoss": 0.12345,
    }


def test_slack_gets_a_text_in_which_nothing_is_markup(inbox: Inbox, send: Callable[..., list[str]]) -> None:
    assert send(SLACK_URL=inbox.url) == []
    assert inbox.bodies() == [{"text": "*büro &lt;x&gt; &amp; y: failed*\nstep 7, loss 0.1235, exit code 3"}]


def test_ntfy_gets_title_priority_and_token_as_headers(inbox: Inbox, send: Callable[..., list[str]]) -> None:
    assert send(NTFY_URL=inbox.url, NTFY_TOKEN="tk_1") == []
    [(headers, body)] = inbox.got
    assert body == b"step 7, loss 0.1235, exit code 3"
    assert headers["Authorization"] == "Bearer tk_1"
    assert headers["Priority"] == "high"
    assert headers["Title"].startswith("=?utf-8?")


def test_desktop_is_told_through_notify_send_and_takes_no_name_for_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    post = Post(channels_in({}, desktop=True))
    post.send(message_of("paused", make_record("r", name="--replace-id=5"), "heat"))
    assert post.close(10) == []
    said = (tmp_path / "said").read_text().splitlines()
    assert said[-3:] == ["--", "--replace-id=5: paused", "heat"]


def test_control_characters_in_a_name_do_not_come_through() -> None:
    told = message_of("started", make_record("r", name="a\r\nX-Evil: 1\x1b[31m\u2028\udcff"), None)
    assert told.title == "a  X-Evil: 1 [31m  : started"


# --- when it does not work at once ----------------------------------------------------------------


@pytest.mark.parametrize("codes", [[500], [503, 502], [429], [408, 500]])
def test_server_in_trouble_is_tried_again(
    inbox: Inbox, send: Callable[..., list[str]], codes: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backprop_notify.sending.FIRST_PAUSE_S", 0.05)
    inbox.codes = list(codes)
    assert send(WEBHOOK_URL=inbox.url) == []
    assert len(inbox.got) == len(codes) + 1


@pytest.mark.parametrize("code", [302, 400, 404])
def test_answer_that_no_second_try_would_change_is_told_and_leads_nowhere_else(
    inbox: Inbox, send: Callable[..., list[str]], code: int
) -> None:
    inbox.codes = [code, code]
    assert send(WEBHOOK_URL=inbox.url) == [f"webhook: the server answered {code}"]
    assert len(inbox.got) == 1


def test_pauses_between_tries_grow(inbox: Inbox, message: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backprop_notify.sending.FIRST_PAUSE_S", 0.1)
    inbox.codes = [500] * 4
    moments: list[float] = []
    real = channels.post

    def noted(*arguments: Any) -> None:
        moments.append(time.monotonic())
        real(*arguments)

    monkeypatch.setattr(channels, "post", noted)
    post = Post(channels_in({"BACKPROP_NOTIFY_WEBHOOK_URL": inbox.url}, desktop=False))
    post.send(message)
    wait_for(lambda: len(moments) == 5, "five tries")
    assert post.close(5) == []
    pauses = [after - before for before, after in pairwise(moments)]
    assert all(pause >= expected for pause, expected in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True))


def test_refused_connection_is_told_without_the_address(send: Callable[..., list[str]]) -> None:
    [words] = send(0.3, SLACK_URL=refused_url())
    assert "refused" in words
    assert SECRET not in words
    assert "127.0.0.1" not in words


def test_server_that_hangs_is_left_when_the_time_is_up_and_the_others_are_served(
    inbox: Inbox, send: Callable[..., list[str]]
) -> None:
    inbox.codes = ["hang"]
    began_s = time.monotonic()
    hanging = {"WEBHOOK_URL": inbox.url}
    assert send(0.5, **hanging) == ["webhook: no answer in time"]
    assert time.monotonic() - began_s < 2
    assert send(SLACK_URL=inbox.url) == []


def test_handing_over_takes_no_time_however_many_wait(inbox: Inbox, message: Message) -> None:
    inbox.codes = ["hang"] * 200
    post = Post(channels_in({"BACKPROP_NOTIFY_WEBHOOK_URL": inbox.url}, desktop=False))
    began_s = time.monotonic()
    for _ in range(150):
        post.send(message)
    assert time.monotonic() - began_s < 1
    assert post.close(0.1) == ["webhook: too many messages were waiting", "webhook: no answer in time"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "example.org", "http://a b"])
def test_what_is_no_web_address_is_an_error_that_does_not_quote_it(url: str) -> None:
    with pytest.raises(Exception, match="BACKPROP_NOTIFY_SLACK_URL holds no http") as caught:
        channels_in({"BACKPROP_NOTIFY_SLACK_URL": url}, desktop=False)
    assert url not in str(caught.value)


# --- in a run ------------------------------------------------------------------------------------


def test_run_tells_how_it_ended_and_its_secrets_are_nowhere(inbox: Inbox, backprop: Project) -> None:
    backprop.env["BACKPROP_NOTIFY_WEBHOOK_URL"] = inbox.url
    backprop.write("train.py", """print('{"step": 3, "loss": 0.5}'); raise SystemExit(4)""")
    done = backprop.run("run", "train.py", "--name", "one", "--notify-on", "started,finished", "--verbose")
    assert done.code == 4
    assert [(body["event"], body["run"]["status"]) for body in inbox.bodies()] == [
        ("started", "running"),
        ("finished", "failed"),
    ]
    kept = [path.read_bytes() for path in backprop.home.rglob("*") if path.is_file()]
    assert kept
    assert not any(SECRET.encode() in text for text in kept)
    assert SECRET not in done.out + done.err


def test_run_whose_server_hangs_ends_in_time_with_its_own_code_and_a_line(
    inbox: Inbox, backprop: Project
) -> None:
    inbox.codes = ["hang"] * 9
    backprop.env["BACKPROP_NOTIFY_NTFY_URL"] = inbox.url
    backprop.write("train.py", "raise SystemExit(4)")
    began_s = time.monotonic()
    done = backprop.run("run", "train.py")
    assert done.code == 4
    assert time.monotonic() - began_s < 20
    assert "plugin notify" in done.err
    assert "ntfy: no answer" in done.err
    assert SECRET not in done.err


def test_run_whose_address_is_wrong_says_so_and_goes_on(backprop: Project) -> None:
    backprop.env["BACKPROP_NOTIFY_SLACK_URL"] = "not-an-address-" + SECRET
    backprop.write("train.py", "print('trained')")
    done = backprop.run("run", "train.py")
    assert (done.code, done.out) == (0, "trained\n")
    assert "BACKPROP_NOTIFY_SLACK_URL holds no http" in done.err
    assert SECRET not in done.err


def test_pause_by_heat_is_told_with_its_reason(inbox: Inbox, backprop: Project) -> None:
    backprop.env |= {"BACKPROP_NOTIFY_SLACK_URL": inbox.url, "BACKPROP_MONITOR_SECONDS": "0.1"}
    script = backprop.child("polite")
    process = backprop.start("run", script, "--", backprop.folder)
    wait_for(lambda: list(backprop.folder.glob("ready-*")), "the script to start")
    backprop.run("pause", "last")
    wait_for(lambda: inbox.got, "the news of the pause")
    assert "paused" in inbox.bodies()[0]["text"]
    backprop.run("stop", "last")
    backprop.end(process)
    assert "stopped" in inbox.bodies()[-1]["text"]
