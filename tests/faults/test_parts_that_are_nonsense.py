"""A part that has, answers or raises anything at all is named with its plugin's file, and never a traceback."""

from __future__ import annotations

import pytest
from kit import Project

NONSENSE = '''
import os
from backprop_builtin.launchers.local import LocalLauncher
from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import Gpu, hookimpl

KIND, ATTRIBUTE, WAY = os.environ["NONSENSE"].split()

class OfTheirOwn(BaseException):
    """No Exception, as asyncio.CancelledError and GeneratorExit are none."""

def later():
    yield 7
    raise OfTheirOwn("late")

VALUES = {"None": None, "7": 7, "text": "x\\x1b[31m", "list": [], "odd-list": [None], "numbers": {1: 2}, "bytes": b"x"}

def answer(*_, **__):
    if WAY == "raises":
        raise OfTheirOwn("in it")
    return later() if WAY == "yields" else VALUES[WAY]

class Raising:
    def __get__(self, *_):
        raise KeyError("property")

class Probe:
    name, order = "frail", 1
    def is_available(self): return True
    def read(self): return [Gpu(index=0, uuid="GPU-1", vram_total_mb=9000.0, vram_free_mb=9000.0)]
    def visible_devices(self, gpu): return {"CUDA_VISIBLE_DEVICES": "0"}

class Framework:
    name, order, checkpoint_forms = "frail", 1, ()
    def score(self, script): return 1.0
    def environment(self, request, gpu): return {"FRAIL": "1"}
    def resume_arguments(self, script, checkpoint): return ["--from", str(checkpoint)]
    def memory_layer(self, request, gpu): return "allocator"
    def missing_line(self, script): return None

class Wrapped:
    def __init__(self, part): self._part = part
    def __getattr__(self, name): return getattr(self._part, name)

class Open(Wrapped):
    pass

class Storage:
    name, schemes = "frail", ("frail",)
    def open(self, url, home): return Open(JsonBackend().open(None, home))

class Launcher(Wrapped):
    name = "frail"

PARTS = {"probe": Probe, "framework": Framework, "storage": Storage, "open": Open, "launcher": Launcher}
if WAY == "property":
    odd = Raising()
elif WAY.startswith("is-"):
    odd = VALUES[WAY.removeprefix("is-")]
else:
    odd = answer
setattr(PARTS[KIND], ATTRIBUTE, odd)

@hookimpl
def backprop_gpu_probe(): return Probe() if KIND == "probe" else None

@hookimpl
def backprop_framework(): return Framework() if KIND == "framework" else None

@hookimpl
def backprop_storage_backend(): return Storage()

@hookimpl
def backprop_launcher(): return Launcher(LocalLauncher())
'''

ATTRIBUTES = {
    "probe": "name order is_available read visible_devices",
    "framework": "name order score environment resume_arguments memory_layer missing_line checkpoint_forms",
    "storage": "name schemes open",
    "open": "get save runs delete append_metrics metrics post take close",
    "launcher": "name preflight render submit state cancel",
}
EACH = [(kind, attribute) for kind, all_ in ATTRIBUTES.items() for attribute in all_.split()]
WAYS = (
    *("raises", "yields", "None", "7", "text", "list", "odd-list", "numbers", "bytes"),
    *("is-None", "is-7", "is-list", "is-text"),
)
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "probe": (("--dry-run",),),
    "framework": (("-r", "a.bin", "--dry-run", "-g", "80%"),),
    "storage": (("--storage", "frail://x"),),
    "open": (("--storage", "frail"),),
    "launcher": (("--launcher", "frail", "--dry-run"), ("--launcher", "frail")),
}


def given(project: Project) -> None:
    project.write("backprop_plugins.py", NONSENSE)
    project.write("train.py", "import torch\nprint('{\"step\": 3}')")
    project.write("torch.py", "")
    (project.folder / "a.bin").write_bytes(b"weights")


def run(project: Project, kind: str, attribute: str, way: str, *words: str) -> tuple[int, str]:
    env: dict[str, str | None] = {"NONSENSE": f"{kind} {attribute} {way}"}
    if kind == "probe":
        env["BACKPROP_GPU_PROBE"] = "auto"
    if kind == "framework":
        project.gpus({"index": 0})
    ask = project.run if kind == "launcher" else project.call  # which starts a process that nobody waits for
    done = ask("run", "train.py", *words, env=env)
    assert done.code in (0, 2, 75), done
    return done.code, done.err


@pytest.mark.parametrize(("kind", "attribute"), EACH)
def test_a_part_whose_attribute_raises_is_named_with_its_file(
    project: Project, kind: str, attribute: str
) -> None:
    given(project)
    for words in COMMANDS[kind]:
        _, said = run(project, kind, attribute, "property", *words)
    optional = attribute in (
        "missing_line",
        "cancel",
        "delete",
        "post",
        "metrics",
    )  # not asked by these commands
    assert ("backprop_plugins.py" in said and "KeyError: 'property'" in said) or optional, said


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "attribute"), EACH)
def test_a_part_that_is_or_answers_nonsense_is_no_traceback(
    project: Project, kind: str, attribute: str
) -> None:
    given(project)
    for way in WAYS:
        if (attribute, way) == ("submit", "text"):  # a job that never begins is an engine's right
            continue
        for words in COMMANDS[kind]:
            code, said = run(project, kind, attribute, way, *words)
            assert code == 0 or "frail" in said or "backprop_plugins.py" in said, (way, said)


@pytest.mark.parametrize(
    ("kind", "attribute", "way", "said"),
    [
        ("probe", "order", "is-text", "Probe.order is 'x\\x1b[31m', not a number"),
        ("probe", "visible_devices", "numbers", "visible_devices answered no variables"),
        ("framework", "score", "raises", "plugin frail ({file}) failed in score: OfTheirOwn: in it"),
        ("framework", "score", "bytes", "failed in score: it answered b'x', not a number from 0 to 1"),
        ("framework", "memory_layer", "7", "failed in memory_layer: it answered int, which is left out"),
        ("storage", "schemes", "is-None", "Storage.schemes is None, not a tuple of texts"),
        ("storage", "open", "raises", "failed in open: OfTheirOwn: in it\n  it is brought by plugin {file}"),
        (
            "launcher",
            "preflight",
            "odd-list",
            "answers preflight with list\n  it is brought by plugin {file}",
        ),
        ("launcher", "submit", "is-7", "Launcher.submit is 7, not a method"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_with_its_file(
    project: Project, kind: str, attribute: str, way: str, said: str
) -> None:
    given(project)
    _, told = run(project, kind, attribute, way, *COMMANDS[kind][-1])
    assert said.format(file=project.folder / "backprop_plugins.py") in told
    assert len(told.splitlines()) <= 4
