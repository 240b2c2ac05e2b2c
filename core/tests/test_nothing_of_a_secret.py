"""A config string that is empty, or in the wrong place: refused, and no part of it is shown."""

from __future__ import annotations

import traceback

import click
import pytest

import offload
from offload import ConfigError, Job
from offload.adapters import override_url
from offload.cli.loading import load_worker
from offload.config import parse_address


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


CANARY = "c4n4ry%3Apa%2Fss"
SPELLINGS = ("c4n4ry", "pa/ss", "pa%2Fss", "pa%2fss")

URLS = [
    f"redis://user:{CANARY}@127.0.0.1:1/0?timeout=300ms",
    f"redis://user:{CANARY}@127.0.0.1:1/0?nonsense=1",
    f"redis://user:{CANARY}@127.0.0.1:1/0?timeout=never",
    f"redis://:{CANARY}@127.0.0.1:1/no-number",
    f"rediss://user:{CANARY}@127.0.0.1:1/0?ssl_ca_certs=/no/such/file",
    f"redis+cluster://user:{CANARY}@127.0.0.1:1,127.0.0.1:2?timeout=300ms",
    f"redis+sentinel://user:{CANARY}@127.0.0.1:1/name/0?sentinel_password={CANARY}&timeout=300ms",
    f"redis+sentinel://127.0.0.1:1/name/0?sentinel_password={CANARY}&lease=never",
    f"unix://user:{CANARY}@/no/such/socket",
    f"amqp://user:{CANARY}@127.0.0.1:1/?timeout=300ms",
    f"amqp://user:{CANARY}@127.0.0.1:1/?queue_type=none",
    f"amqps://user:{CANARY}@127.0.0.1:1/?ssl_certfile=/no/such/file",
    f"amqp://user:{CANARY}@127.0.0.1:1/{'v' * 300}",
    f"sqlite://user:{CANARY}@host/jobs.db",
    f"simple://user:{CANARY}@host",
    f"nothing://user:{CANARY}@host",
    f"redis://user:{CANARY}@host:port",
    f"redis://user:{CANARY}@host/0#fragment",
    f"redis://user:{CANARY}@host?a=1&a=2",
    f"redis:user:{CANARY}@host",
    f"redis://user:a?{CANARY}@host",
    f"redis://user:a?{CANARY}&b@host",
    f"redis://user:a?x&{CANARY}@host?y&y",
]


@pytest.mark.parametrize("url", URLS)
async def test_no_frame_of_ours_shows_a_password(url):
    """Programs that report errors send along what the frames of a traceback hold."""
    error: BaseException | None = None
    try:
        worker = offload.connect(url)
        try:
            await worker.perform(Job("note"))
        finally:
            await worker.stop()
    except offload.OffloadError as raised:
        error = raised
    assert error is not None
    told = [str(error), repr(error)]
    chain: BaseException | None = error
    while chain is not None:
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            if "/offload" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
                told += [f"{name}={value!r}" for name, value in frame.f_locals.items()]
        chain = chain.__cause__
    assert not [text for text in told for spelling in SPELLINGS if spelling in text]


def test_what_reads_like_an_option_may_be_the_end_of_a_password():
    with pytest.raises(ConfigError) as told:
        offload.connect("redis://user:pa?ss&word@host")
    assert "ss" not in str(told.value).replace("password", "").replace("pass", "")


def test_a_secret_is_as_good_as_its_text():
    address = parse_address("redis://user:p%40ss@host?sentinel_password=other")
    assert (address.password, len(address.password)) == ("p@ss", 4)
    assert f"{address.password}" == "p@ss"
    assert "p@ss" not in repr(address)
    assert "other" not in repr(address)
    assert "other" not in repr(address.query)
