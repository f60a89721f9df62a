"""A run that tells when each of its lines was said, beside a probe that stops answering."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from governor_stories import OFTEN
from kit import Project

SPEAKING = """
    import json, os, signal, sys, time

    def say(word, moment):  # in one write: print would be interrupted between a word and its moment
        os.write(1, f"{word} {moment}\\n".encode())

    def end(*_):
        say("interrupted", time.monotonic())
        sys.exit(0)

    signal.signal(signal.SIGINT, end)
    with open(os.path.join(os.environ["BACKPROP_RUN_DIR"], "time-box.json")) as file:
        say("deadline", json.load(file)["deadline"])
    while True:
        say("spoke", time.monotonic())
        time.sleep(0.01)
"""


class Hanging:
    """A run whose probe hangs from its first samples on, and what the script said: word, said at, heard at."""

    def __init__(self, project: Project, hang: Callable[[], None], *words: object, is_stopped: bool) -> None:
        project.write("speak.py", SPEAKING)
        self.heard: list[tuple[str, float, float]] = []
        self.stopped_at = 0.0
        running = project.start("run", "speak.py", *OFTEN, *words)
        assert running.stdout
        for line in running.stdout:
            word, said = line.split()
            self.heard.append((word.decode(), float(said), time.monotonic()))
            if len(self.heard) == 20:
                hang()
            if len(self.heard) == 120 and is_stopped:
                self.stopped_at = time.monotonic()
                running.send_signal(signal.SIGTERM)
        self.ended_at = time.monotonic()
        self.done = project.end(running)

    def said_at(self, word: str) -> float:
        found = [said for other, said, _ in self.heard if other == word]
        assert found, f"the script never said {word!r}: {self.heard[-3:]}, {self.done}"
        return found[0]
