"""Hiding what looks like a secret before it is shown; what is stored stays as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

HIDDEN = "***"
_NAMES = (
    r"(?:api|access|private|secret|account|auth|wandb|hf)[-_.]?keys?|token(?!iz|s)|secret|passw(?:or)?d|passphrase"
    r"|credential|auth(?!or)"
)
# What those who issue tokens let them begin with, so that leaked ones can be found.
_SIGNS = tuple("sk- sk_live_ gho_ ghp_ ghr_ ghs_ ghu_ github_pat_ glpat- xox AKIA AIza pypi- ya29.".split())


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compile where it is needed: most commands show nothing that has to be looked at."""
    return re.compile(text, re.ASCII)


def is_secret_name(name: str) -> bool:
    """Tell whether a variable's or an option's name says that its value is secret."""
    return _pattern(rf"(?i){_NAMES}").search(name) is not None


def without_secrets(text: str) -> str:
    """Hide passwords in URLs, and tokens that can be told by how they begin."""
    if "://" in text:
        text = _pattern(r"(?<=://)([^\s/@:'\"]*):[^\s/@'\"]+@").sub(rf"\1:{HIDDEN}@", text)
    if any(sign in text for sign in _SIGNS):
        begins = "|".join(map(re.escape, _SIGNS))
        text = _pattern(rf"(?<![A-Za-z0-9])({begins})[A-Za-z0-9_.\-]{{8,}}").sub(rf"\1{HIDDEN}", text)
    if "hf_" in text:  # many a file's name begins so; a token goes on with letters and digits alone
        text = _pattern(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{10,}(?![A-Za-z0-9_]|\.[A-Za-z])").sub(
            f"hf_{HIDDEN}", text
        )
    return text


def redacted(arguments: Sequence[str]) -> list[str]:
    """Hide secrets in a command line: by their option's name, by how they begin, in URLs and in JSON."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_option = argument.startswith("-")
        is_secret = (is_option or bool(equals)) and is_secret_name(name)
        if hide_next and not is_option:
            shown.append(HIDDEN)
        elif is_secret and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(_without_json_secrets(without_secrets(argument)))
        hide_next = is_secret and not equals
    return shown


def _without_json_secrets(argument: str) -> str:
    if not argument.lstrip().startswith(("{", "[")):
        return argument
    return _pattern(rf'(?i)("[^"]*(?:{_NAMES})[^"]*"\s*:\s*)"(?:[^"\\]|\\.)*"').sub(
        rf'\1"{HIDDEN}"', argument
    )
