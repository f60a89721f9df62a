"""What a run will execute, found out without executing it: script, interpreter, framework."""

from __future__ import annotations

from .code import code_of, differences
from .framework import answer_of, choose_framework, memory_layer, missing_line
from .interpreter import Interpreter, find_interpreter, versions_in
from .script import describe_script

__all__ = [
    "Interpreter",
    "answer_of",
    "choose_framework",
    "code_of",
    "describe_script",
    "differences",
    "find_interpreter",
    "memory_layer",
    "missing_line",
    "versions_in",
]
