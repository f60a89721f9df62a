"""Signs are found where a plain search finds them, and nowhere else."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from backprop_core.lines import joined, runs_by_sign
from backprop_core.signs import Signs

few = st.text("as:%{ \n", max_size=12).map(str.encode)
signs = st.sets(st.text("as:%{ ", min_size=1, max_size=3).map(str.encode), max_size=5)


@given(few | st.binary(max_size=30), signs | st.sets(st.binary(min_size=1, max_size=3), max_size=4))
@example(b"s a:s", {b"a:", b":", b"sa"})
@example(b"", {b"a"})
def test_signs_are_found_as_a_search_for_each_finds_them(output: bytes, looked_for: set[bytes]) -> None:
    assert Signs(looked_for).found_in(output) == {sign for sign in looked_for if sign in output}


@given(few, signs)
@example(b"a\n\nb:\nc:\nd", {b":"})
@example(b"a:", {b":"})
@example(b"\n\na:\n", {b":"})
def test_lines_with_a_sign_are_told_from_those_without(lines: bytes, looked_for: set[bytes]) -> None:
    runs = runs_by_sign(lines, looked_for)
    for has_sign in (True, False):
        found = joined(runs, has_sign=has_sign).split(b"\n")
        expected = [
            line
            for line in lines.split(b"\n")
            if has_sign == (not looked_for or any(sign in line for sign in looked_for))
        ]
        assert [line for line in found if line] == [line for line in expected if line]


def test_runs_take_turns_as_the_lines_do() -> None:
    assert runs_by_sign(b"1:\n2\n3\n4:\n5:\n6", {b":"}) == [
        (True, b"1:"),
        (False, b"2\n3"),
        (True, b"4:\n5:"),
        (False, b"6"),
    ]
