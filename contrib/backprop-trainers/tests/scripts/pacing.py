"""What makes the scripts' time boxes end where a test wants, however slow the machine is."""

import os
import time


def end_time_box(place: int) -> None:
    """Have the helper believe that the time box is over, at the place that belongs to this attempt.

    :param place: 0 for the place where the first attempt is to end, 1 for the second's.
    """
    if os.environ.get("BACKPROP_ATTEMPT") != str(place + 1):
        return
    from backprop_core import script

    assert script.time_left() > 0
    script._memory.box = (time.monotonic(), script._memory.box[1])
