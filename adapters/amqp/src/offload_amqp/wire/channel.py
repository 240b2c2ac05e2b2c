"""A channel: calls, publishes that are confirmed, and consumers."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pamqp import commands
from pamqp.base import Frame

from offload_amqp.wire.errors import ClosedError, LostError
from offload_amqp.wire.frames import (
    ACK,
    BODY,
    DELIVER,
    GET_OK,
    HEADER,
    METHOD,
    NACK,
    RETURN,
    acknowledge_frame,
    method_frame,
    publish_frames,
    read_deliver,
    read_header,
    read_method,
    read_tag,
)
from offload_amqp.wire.messages import Headers, Incoming, Outgoing

if TYPE_CHECKING:
    from offload_amqp.wire.connection import Connection

CHUNK_BYTES = 256 * 1024
"""So much is written at once, before we look whether the other side keeps up."""

Deliver = Callable[[Incoming], None]


class _Batch:
    """Messages that were published together, and wait for their confirmations."""

    def __init__(
        self, messages: Sequence[Outgoing], done: asyncio.Future[list[tuple[int, str]]]
    ) -> None:
        self.messages = messages
        self.left = len(messages)
        self.done = done
        self.refused: list[tuple[int, str]] = []


class _Content:
    """A message of which not all has arrived yet."""

    def __init__(self, payload: bytes) -> None:
        self.method = payload
        self.id = ""
        self.headers: Headers = {}
        self.missing = 0
        self.pieces: list[bytes] = []


class Channel:
    """Made by `Connection.open_channel`. For one event loop, that of its connection."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._calls: deque[asyncio.Future[Any]] = deque()
        self._consumers: dict[bytes, Deliver] = {}
        self._next_tag = 1
        self._unconfirmed: dict[int, tuple[_Batch, int]] = {}
        self._content: _Content | None = None
        self.error: Exception | None = None
        """Why it is closed; none while it is open."""
        self.on_closed: Callable[[], None] = lambda: None
        self.on_cancelled: Callable[[], None] = lambda: None
        """Called when the broker ends a consumer, as when its queue is deleted."""

    # -- calls --------------------------------------------------------------------

    async def call(self, method: Frame) -> Any:
        """Send a method, and return what the broker answers to it. Calls may overlap.

        Raises:
            ClosedError: the broker closes the channel over it.
            LostError: the connection is lost.
        """
        if self.error is not None:
            raise self.error
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._calls.append(answer)
        self.connection.write(method_frame(method, self._number))
        return await answer

    def _answer(self, value: object) -> None:
        if not self._calls:
            raise LostError("the broker answers what nobody has asked")
        # One that was cancelled gets its answer, too, or the next one would get it.
        answer = self._calls.popleft()
        if not answer.done():
            answer.set_result(value)

    async def look(self, queue: str) -> commands.Queue.DeclareOk:
        """How many messages are ready in a queue, and how many consumers it has.

        Raises:
            ClosedError: there is no such queue; that closes the channel.
        """
        found: commands.Queue.DeclareOk = await self.call(
            commands.Queue.Declare(queue=queue, passive=True)
        )
        return found

    async def echo(self) -> None:
        """Return when the broker has answered, and so still has this channel."""
        await self.call(commands.Channel.Flow(active=True))  # as it is anyhow

    async def get(self, queue: str) -> Incoming | None:
        """The next message of a queue, if there is one ready."""
        answer = await self.call(commands.Basic.Get(queue=queue))
        return answer if isinstance(answer, Incoming) else None

    async def close(self) -> None:
        """Close it: what was handed out and not settled goes back."""
        await self.call(commands.Channel.Close(0, "", 0, 0))
        self.connection.forget(self._number)
        self.end(LostError("the channel is closed"))

    def end(self, error: Exception) -> None:
        """Nothing works on this channel any more; whatever waits for it gets the error."""
        if self.error is not None:
            return
        self.error = error
        for answer in self._calls:
            if not answer.done():
                answer.set_exception(error)
        self._calls.clear()
        self._consumers.clear()
        self.fail_publishes(error)
        self.on_closed()

    # -- publishing ---------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> list[tuple[int, str]]:
        """Publish these, and return when the broker has confirmed all that it takes.

        It may be cancelled; a confirmation that comes later does no harm.

        Returns:
            Which of them it didn't take, each with the reason.

        Raises:
            BlockedError: the broker takes nothing now.
            ClosedError, LostError: what was not confirmed may have been taken, or not.
        """
        if self.error is not None:
            raise self.error
        if not messages:
            return []
        batch = _Batch(messages, self._loop.create_future())
        chunk: list[bytes] = []
        size = 0
        for index, message in enumerate(messages):
            frames = publish_frames(message, self._number, self.connection.frame_max)
            self._unconfirmed[self._next_tag] = (batch, index)
            self._next_tag += 1
            chunk.append(frames)
            size += len(frames)
            if size >= CHUNK_BYTES:
                self.connection.write(b"".join(chunk))
                chunk.clear()
                size = 0
                await self.connection.writable()
                if self.error is not None or batch.done.done():
                    break
        self.connection.write(b"".join(chunk))
        if self.error is not None and not batch.done.done():
            raise self.error
        return await batch.done

    def _confirm(self, payload: bytes, *, is_refusal: bool = False) -> None:
        tag, is_multiple = read_tag(payload)
        unconfirmed = self._unconfirmed
        tags = [tag] if tag in unconfirmed else []
        if is_multiple:
            tags = list(itertools.takewhile(lambda each: each <= tag, unconfirmed))
        for each in tags:
            batch, index = unconfirmed.pop(each)
            if is_refusal:
                batch.refused.append((index, "a queue is full, or has no leader"))
            batch.left -= 1
            if not batch.left and not batch.done.done():
                batch.done.set_result(batch.refused)

    def _return(self, content: _Content) -> None:
        """A mandatory message found no queue; its confirmation comes next."""
        method: Any = read_method(content.method)
        where = (method.exchange, method.routing_key, content.id)
        for batch, index in self._unconfirmed.values():
            message = batch.messages[index]
            if (message.exchange, message.key, message.id) == where:
                batch.refused.append((index, "no queue is there for it, or no binding"))
                return

    def fail_publishes(self, error: Exception) -> None:
        """Whoever waits for a confirmation gets this instead."""
        for batch in {id(batch): batch for batch, _ in self._unconfirmed.values()}.values():
            if not batch.done.done():
                batch.done.set_exception(error)
                batch.done.exception()  # it may be that nobody waits for it any more

    # -- consuming ----------------------------------------------------------------

    async def consume(self, queue: str, tag: str, prefetch: int, deliver: Deliver) -> None:
        """Consume a queue, so many messages unsettled at most. `deliver` is called for each."""
        self._consumers[tag.encode()] = deliver
        await self.call(commands.Basic.Qos(prefetch_count=prefetch))
        await self.call(commands.Basic.Consume(queue=queue, consumer_tag=tag))

    async def cancel(self, tag: str) -> None:
        """Consume no more; what was handed out can still be settled."""
        await self.call(commands.Basic.Cancel(consumer_tag=tag))
        self._consumers.pop(tag.encode(), None)

    def acknowledge(self, tags: Sequence[int], up_to: int = 0) -> None:
        """Acknowledge all messages up to a tag, and these besides. There is no answer to that."""
        if self.error is not None:
            return
        frames = [acknowledge_frame(self._number, up_to, multiple=True)] if up_to else []
        frames += (acknowledge_frame(self._number, tag, multiple=False) for tag in tags)
        self.connection.write(b"".join(frames))

    # -- what arrives -------------------------------------------------------------

    def receive(self, kind: int, payload: bytes) -> None:
        """A frame for this channel.

        Raises:
            LostError: it is none that may come now.
        """
        if self.error is not None and kind != METHOD:
            return
        if kind == METHOD:
            self._receive_method(payload)
        elif kind == HEADER and self._content is not None:
            content = self._content
            content.missing, content.id, content.headers = read_header(payload)
            if not content.missing:
                self._complete(content)
        elif kind == BODY and self._content is not None:
            content = self._content
            content.pieces.append(payload)
            content.missing -= len(payload)
            if content.missing <= 0:
                self._complete(content)
        else:
            raise LostError("the broker sends a frame out of its turn")

    def _receive_method(self, payload: bytes) -> None:
        which = payload[:4]
        if which in (DELIVER, GET_OK, RETURN):
            self._content = _Content(payload)
        elif which == ACK:
            self._confirm(payload)
        elif which == NACK:
            self._confirm(payload, is_refusal=True)
        else:
            method: Any = read_method(payload)
            if isinstance(method, commands.Channel.Close):
                closed = method_frame(commands.Channel.CloseOk(), self._number)
                self.connection.write(closed)
                self.connection.forget(self._number)
                self.end(ClosedError(method.reply_code or 0, method.reply_text))
            elif isinstance(method, commands.Basic.Cancel):
                self.on_cancelled()
            elif not isinstance(method, commands.Channel.Flow):
                self._answer(method)

    def _complete(self, content: _Content) -> None:
        self._content = None
        which = content.method[:4]
        if which == RETURN:
            self._return(content)
            return
        pieces = content.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if which == GET_OK:
            got: Any = read_method(content.method)
            tag, again = got.delivery_tag, got.redelivered
            self._answer(Incoming(self, tag, again, content.id, content.headers, body))
            return
        consumer, tag, again = read_deliver(content.method)
        deliver = self._consumers.get(consumer)
        if deliver is not None:
            deliver(Incoming(self, tag, again, content.id, content.headers, body))
