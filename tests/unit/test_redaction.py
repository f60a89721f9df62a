"""What looks like a secret is not shown, and what does not is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_core.redaction import redacted, without_secrets

SECRET_NAMES = (
    "api-key api_key apikey wandb_api_key API-KEY token hf-token secret client_secret password passwd "
    "credentials auth"
).split()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_value_of_a_secret_argument_is_hidden_however_it_is_given(name: str) -> None:
    assert redacted([f"--{name}=hunter2", "--lr=1"]) == [f"--{name}=***", "--lr=1"]
    assert redacted([f"--{name}", "hunter2", "next"]) == [f"--{name}", "***", "next"]
    assert redacted([f"+logger.{name}=hunter2"]) == [f"+logger.{name}=***"]  # as Hydra takes them


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lr", "1e-3", "--data=/d"],
        ["--tokenizer", "bert", "--author=me"],
        ["token", "of", "thanks"],
        ["--data", "secret.csv"],
        ["--use-auth", "--lr", "3"],
    ],
)
def test_other_arguments_are_shown(arguments: list[str]) -> None:
    assert redacted(arguments) == arguments


def test_a_secret_with_an_equals_sign_in_it_is_hidden_whole() -> None:
    assert redacted(["--token=aa=bb", "--token", "aa=bb"]) == ["--token=***", "--token", "***"]


@given(st.lists(st.sampled_from(["--token", "--token=x9", "a", "--lr", "-v", "auth=x9"])))
def test_redaction_keeps_every_argument_in_its_place(arguments: list[str]) -> None:
    shown = redacted(arguments)
    assert len(shown) == len(arguments)
    assert not any("x9" in argument for argument in shown)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("hf_abcdefghijklmnop", "hf_***"),
        ("the token is hf_abcdefghijklmnop.", "the token is hf_***."),
        ("sk-proj-abcdefghijkl", "sk-***"),
        ("ghp_abcdefghijkl0123", "ghp_***"),
        ("postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("--url=https://me:hun%40ter2@host/", "--url=https://me:***@host/"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ('{"token": "hunter2", "lr": 1}', '{"token": "***", "lr": 1}'),
        ('{"x": {"api_key":"a\\"b"}}', '{"x": {"api_key":"***"}}'),
    ],
)
def test_a_secret_that_can_be_told_by_its_looks_is_hidden_wherever_it_stands(
    argument: str, shown: str
) -> None:
    assert redacted(["--lr", argument]) == ["--lr", shown]


@pytest.mark.parametrize(
    "text",
    [
        "https://host/path@2x.png",
        "https://host:8080/x",
        "sk-learn",
        "half_hf_",
        "events/hf_trainer.py",
        "hf_checkpoints2026.tar",
        "hf_finetuning_run",
        "task-3",
        "s3://bucket/key",
        "--max-tokens=4096",
        '{"lr": "1e-3"}',
        "a:b@c",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert redacted([text]) == [text]
    assert without_secrets(text) == text
