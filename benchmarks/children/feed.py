"""Take in as many progress lines as the second argument says: with Backprop's parsers, or barely decoded."""

import sys
from pathlib import Path

import msgspec

from backprop_core.events import EventReader, collect_parsers
from backprop_core.plugin_sources import Wanted, load
from backprop_core.records import RunRecord
from backprop_core.states import RunState

CHUNK = 1000


class Line(msgspec.Struct):
    step: int
    loss: float


how, count = sys.argv[1], int(sys.argv[2])
record = RunRecord(id="it", script_path="it.py", status=RunState.RUNNING, start_time=0)
reader = EventReader(collect_parsers(load(Wanted(with_others=False)), record), Path.cwd())
decoder = msgspec.json.Decoder(Line)
chunk = b'{"step": 12, "loss": 0.731}\n' * CHUNK
taken = 0
for _ in range(count // CHUNK):
    taken += len(reader.feed(chunk) if how == "backprop" else decoder.decode_lines(chunk))
assert taken in (count, count // CHUNK), taken  # every line, or the newest of each chunk
