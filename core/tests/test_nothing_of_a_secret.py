"""A config string that is empty, or in the wrong place: refused, and no part of it is shown."""

from __future__ import annotations

import click
import pytest

import offload
from offload.adapters import override_url
from offload.cli.loading import load_worker
from offload.errors import ConfigError


def test_an_empty_config_string_is_refused_wherever_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OFFLOAD_URL", "simple://")
    with pytest.raises(ConfigError, match="is empty"):
        offload.connect("")
    with override_url(""), pytest.raises(ConfigError, match="is empty"):
        offload.connect("simple://")
    monkeypatch.setenv("OFFLOAD_URL", "")
    with pytest.raises(ConfigError, match="is empty"):
        offload.connect()


@pytest.mark.parametrize("name", ["canary@host/0", "canary/0", "canary@h=1&canary@h=2"])
def test_a_password_with_a_question_mark_shows_no_tail_as_an_option(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        offload.connect(f"simple://user:pass?{name}")
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://u:canary@h", "u:canary@h", "//u:canary"])
def test_a_url_where_a_worker_belongs_is_not_shown(url: str) -> None:
    with pytest.raises(click.BadParameter) as raised:
        load_worker(url)
    assert "canary" not in str(raised.value)
