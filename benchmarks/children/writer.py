"""Write lines and note how many seconds that took, in the file named first.

The other arguments: json, text or mixed; how many lines; bulk, flushed or buffered.
"""

import os
import sys
import time

OWN = {
    "json": ['{"step": %d, "loss": 0.731}'],
    "text": ["Loaded shard %d of the training data from the local cache, nothing to report"],
}
OWN["mixed"] = OWN["json"] + OWN["text"] * 9

note, kind, count, how = sys.argv[1:]
patterns = OWN[kind]
lines = [patterns[number % len(patterns)] % number for number in range(int(count))]
began = time.perf_counter()
if how == "bulk":
    data = memoryview("".join(f"{line}\n" for line in lines).encode())
    began = time.perf_counter()
    while data:
        data = data[os.write(1, data) :]
elif how == "flushed":
    for line in lines:
        print(line, flush=True)
else:
    for line in lines:
        print(line)
    sys.stdout.flush()
took = time.perf_counter() - began
with open(note, "w", encoding="utf-8") as file:
    file.write(str(took))
