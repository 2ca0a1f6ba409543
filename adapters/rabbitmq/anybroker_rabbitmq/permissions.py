"""Whether this user may publish to an exchange. RabbitMQ says it by closing the channel, with all that is under way."""

from __future__ import annotations

import asyncio
from typing import Final

from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from pamqp.commands import Basic

from anybroker.errors import Rejected, Unavailable

from .failures import CLIENT_ERRORS, check_cancelled, not_permitted, said
from .link import Link, end_channel

__all__ = ["Permissions"]

_REFUSED: Final = 1.0
"""Seconds for which an exchange that this user may not publish to is not asked about again."""


class Permissions:
    """What one sender has learned of them."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.wanted = False
        """Whether to ask before the first event to an exchange: only after one was refused, as the answer is an error
        in the broker's log."""
        self._refused: dict[str, tuple[float, Rejected]] = {}
        """Exchanges that this user may not publish to: until when that counts, by the loop's clock, and why."""

    async def check(self, exchange: str, topic: str, group: str | None) -> None:
        """Raise ``Rejected`` where this user may not publish to an exchange. RabbitMQ checks that first, and then
        refuses what is sent here for its expiration."""
        clock = asyncio.get_running_loop().time
        until, error = self._refused.get(exchange, (0.0, None))
        if error is not None and clock() < until:
            raise error
        channel = await self._link.channel(confirms=True)
        try:
            properties = Basic.Properties(expiration="none")
            await channel.basic_publish(b"", exchange=exchange, properties=properties, timeout=self._link.timeout)
        except ChannelAccessRefused as exc:
            error = not_permitted(topic, group, exc)
            self._refused[exchange] = (clock() + _REFUSED, error)
            raise error from exc
        except ChannelPreconditionFailed:
            self._refused.pop(exchange, None)
        except (asyncio.CancelledError, *CLIENT_ERRORS) as exc:
            check_cancelled()
            raise Unavailable(f"RabbitMQ does not say whether it takes events for {topic!r}: {said(exc)}") from exc
        finally:
            await end_channel(channel)
