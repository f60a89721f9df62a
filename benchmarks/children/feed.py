"""Take in lines as the second argument calls them, as many as the third says: with Backprop's parsers, or barely."""

import sys
from pathlib import Path

import msgspec

from backprop_core.events import EventReader, collect_parsers
from backprop_core.plugin_sources import Wanted, load
from backprop_core.records import RunRecord
from backprop_core.states import RunState

CHUNK = 1000
JSON = b'{"step": 12, "loss": 0.731}\n'
TEXT = b"Loaded shard 12 of the training data from the local cache, nothing to report\n"
LINES = {
    "json": JSON,
    "metrics": b'{"step": 12, "loss": 0.731, "lr": 1e-05, "grad_norm": 1.25}\n',
    "text": TEXT,
    "mixed": JSON + TEXT * 9,
}


class Line(msgspec.Struct):
    step: int
    loss: float


how, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
record = RunRecord(id="it", script_path="it.py", status=RunState.RUNNING, start_time=0)
reader = EventReader(collect_parsers(load(Wanted(with_others=False)), record), Path.cwd())
decoder = msgspec.json.Decoder(Line)
pattern = LINES[kind]
chunk = pattern * (CHUNK // pattern.count(b"\n"))
taken = 0
for _ in range(count // CHUNK):
    taken += len(reader.feed(chunk) if how == "backprop" else decoder.decode_lines(chunk))
assert taken == count // CHUNK * chunk.count(b"{"), taken
