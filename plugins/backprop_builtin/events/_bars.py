"""Progress bars as tqdm draws them."""

from __future__ import annotations

import msgspec

from backprop_core import pattern

# "8/16 [00:03<00:02,  2.80it/s, loss=0.5]", and "12it [00:01, 9.3it/s]" where the total is not known.
_OF_TOTAL = pattern(r" {0,200}([0-9]{1,18})/([0-9]{1,18}|\?) \[([^\]]{0,1000})\]")
_WITHOUT_TOTAL = pattern(r"(?:^|[ :])([0-9]{1,18})it \[([^\]]{0,500})\]")


class Bar(msgspec.Struct, frozen=True):
    """One drawing of a bar.

    `total` is None where it is not known; `items` stand behind the rate. `behind` is what somebody printed next:
    it stands in the bar's line, which a bar does not end itself.
    """

    label: str
    n: int
    total: int | None
    items: tuple[str, ...] = ()
    behind: str = ""


def parse_bar(line: str) -> Bar | None:
    """Read `label: 50%|█████     | 3/6 [00:00<00:00,  9.68it/s, loss=0.5]`; None where a line is no bar.

    Bars of other things than counts ("1.2M/5.0MB") are none.
    """
    head, sign, tail = line.partition("%|")
    if sign:
        head = head[:-3] + head[-3:].rstrip("0123456789")
        _, sign, tail = tail.partition("|")
    else:
        # Lightning draws this, without a percentage, where it does not know the total.
        head, _, tail = line.partition("|")
        _, sign, tail = tail.partition("|")
    match = _OF_TOTAL.match(tail) if sign else None
    if match is not None:
        total = None if match[2] == "?" else int(match[2])
        return Bar(_label(head), int(match[1]), total, _items(match[3]), tail[match.end() :])
    match = _WITHOUT_TOTAL.search(line) if "it [" in line else None
    if match is not None:
        head, tail = line[: match.start()], line[match.end() :]
        return Bar(_label(head), int(match[1]), None, _items(match[2]), tail)
    return None


def _label(head: str) -> str:
    return head.strip().removesuffix(":").rstrip()


def _items(inside: str) -> tuple[str, ...]:
    """Return what stands behind time and rate, which are always there."""
    return tuple(inside.split(",")[2:])
