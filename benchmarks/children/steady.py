"""Train so many seconds as the first argument says: a step ten times a second, a checkpoint every twenty seconds."""

import json
import sys
import time

STEPS_A_S = 10
CHECKPOINT_EVERY = 200

began_s = time.monotonic()
for step in range(1, int(float(sys.argv[1]) * STEPS_A_S) + 1):
    time.sleep(max(0.0, began_s + step / STEPS_A_S - time.monotonic()))
    print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
    if step % CHECKPOINT_EVERY == 0:
        print(json.dumps({"event": "checkpoint_saved", "path": f"step-{step}.pt"}), flush=True)
