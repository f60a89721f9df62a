"""The ways by which a message goes out. Each raises what went wrong, in words that name no address."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.header import Header
from http.client import HTTPException
from typing import Any

from backprop_core import SettingsError

from .message import Message

REQUEST_S = 3.0
"""How long a server may stay silent."""
WORTH_ANOTHER_TRY = {408, 425, 429}

Channel = Callable[[Message], None]


class UndeliveredError(Exception):
    """A message did not go out; `is_final` when trying again would not help."""

    def __init__(self, why: str, *, is_final: bool) -> None:
        super().__init__(why)
        self.is_final = is_final


def channels_in(environ: Mapping[str, str], *, desktop: bool) -> dict[str, Channel]:
    """Return the channels that the environment sets up, by name.

    :raises SettingsError: for an address that is none; it names the variable alone.
    """
    found: dict[str, Channel] = {}
    for name, make in (("webhook", webhook), ("slack", slack), ("ntfy", ntfy)):
        variable = f"BACKPROP_NOTIFY_{name.upper()}_URL"
        if url := environ.get(variable):
            if not url.startswith(("https://", "http://")) or len(url.split()) > 1:
                raise SettingsError(f"{variable} holds no http:// or https:// address")
            found[name] = make(url, environ)
    if desktop:
        found["desktop"] = show_on_desktop
    return found


def webhook(url: str, _environ: Mapping[str, str]) -> Channel:
    return lambda message: post(
        url,
        as_json({"event": message.event, "text": f"{message.title} ({message.text})", "run": message.run}),
    )


def slack(url: str, _environ: Mapping[str, str]) -> Channel:
    def send(message: Message) -> None:
        text = f"*{message.title}*\n{message.text}"
        for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(sign, escaped)
        post(url, as_json({"text": text}))

    return send


def ntfy(url: str, environ: Mapping[str, str]) -> Channel:
    token = environ.get("BACKPROP_NOTIFY_NTFY_TOKEN")

    def send(message: Message) -> None:
        headers = {
            "Title": Header(message.title, "utf-8", maxlinelen=10_000).encode()
            if not message.title.isascii()
            else message.title,
            "Priority": "high" if message.is_urgent else "default",
            "Content-Type": "text/plain; charset=utf-8",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        post(url, message.text.encode(), headers)

    return send


def as_json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the failure that it is here: what is secret goes where the person said, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(NoRedirect)


def post(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Post to an address.

    :raises UndeliveredError: for anything but a 2xx answer.
    """
    try:
        request = urllib.request.Request(  # noqa: S310 - channels_in lets http and https pass alone
            url,
            body,
            {"Content-Type": "application/json", "User-Agent": "backprop-notify", **(headers or {})},
        )
        with _opener.open(request, timeout=REQUEST_S) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        error.close()
        is_final = error.code < 500 and error.code not in WORTH_ANOTHER_TRY
        raise UndeliveredError(f"the server answered {error.code}", is_final=is_final) from None
    except urllib.error.URLError as error:
        raise UndeliveredError(in_words(error.reason), is_final=False) from None
    except (OSError, HTTPException) as error:
        raise UndeliveredError(in_words(error), is_final=False) from None
    except ValueError:  # http.client refuses the address, and quotes it
        raise UndeliveredError("the address cannot be used", is_final=True) from None


def in_words(error: object) -> str:
    """Name a failure without what its text may quote."""
    if isinstance(error, TimeoutError):
        return f"no answer within {REQUEST_S:g} s"
    return getattr(error, "strerror", None) or type(error).__name__


def show_on_desktop(message: Message) -> None:
    """Show a message through `notify-send`."""
    import subprocess

    urgency = "critical" if message.is_urgent else "normal"
    command = [
        "notify-send",
        "--app-name=Backprop",
        f"--urgency={urgency}",
        "--",
        message.title,
        message.text,
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REQUEST_S,
            check=False,
        )
    except OSError as error:
        raise UndeliveredError(f"notify-send cannot be started ({error.strerror})", is_final=True) from None
    except subprocess.TimeoutExpired:
        raise UndeliveredError("notify-send does not come back", is_final=False) from None
    if done.returncode != 0:
        raise UndeliveredError(f"notify-send ended with {done.returncode}", is_final=False)
