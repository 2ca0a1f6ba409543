"""Parked keys in Redis: the script, and the operations that call it.

Everything of one group is in one slot of a cluster: a hash with its parked keys, each with how many of its events are
not finished, and for each key two sorted sets, of those that are not and of those that are, by their numbers. None of
them expires.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from hashlib import blake2b

from anybroker.idempotency import ParkedRow

from .keys import TAGS
from .operations import RedisClaim, Transition
from .scripts import Script

__all__ = ["ParkOperation", "list_keys", "park", "unpark"]

# KEYS: the hash of the group, the sorted set of what is not finished, and that of what is. ARGV: what to do, the key,
# and the event. "L" lists the keys. "P" writes the row of the event, "B" only if the key is parked. "U" finishes it,
# "A" all of the key. Every transition may be repeated.
# A number is the server's time, or one more than the last number of the key where the clock has not moved on.
_PARK = Script("""
local kind, key, event = ARGV[1], ARGV[2], ARGV[3]
local index, waiting, finished = KEYS[1], KEYS[2], KEYS[3]
local format = string.format
if kind == 'L' then
  return table.concat(redis.call('HGETALL', index), '\\n')
end
if kind == 'P' or kind == 'B' then
  local number = redis.call('ZSCORE', finished, event)
  if number then
    return format('F %.0f', number)
  end
  number = redis.call('ZSCORE', waiting, event)
  if not number then
    local last = redis.call('ZRANGE', waiting, -1, -1, 'WITHSCORES')
    if kind == 'B' and not last[1] then
      return 'N'
    end
    local time = redis.call('TIME')
    number = math.max(time[1] * 1000000 + time[2], (tonumber(last[2]) or 0) + 1)
    last = redis.call('ZRANGE', finished, -1, -1, 'WITHSCORES')
    number = math.max(number, (tonumber(last[2]) or 0) + 1)
    redis.call('ZADD', waiting, format('%.0f', number), event)
    redis.call('HSET', index, key, redis.call('ZCARD', waiting))
  end
  return format('R %.0f %s', number, redis.call('ZRANGE', waiting, 0, 0)[1])
end
if kind == 'U' then
  local number = redis.call('ZSCORE', waiting, event)
  if number then
    redis.call('ZREM', waiting, event)
    redis.call('ZADD', finished, number, event)
  end
end
local left = kind == 'U' and redis.call('ZCARD', waiting) or 0
if left > 0 then
  redis.call('HSET', index, key, left)
else
  redis.call('DEL', waiting, finished)
  redis.call('HDEL', index, key)
end
return format('L %.0f', left)
""")


class ParkOperation(Transition):
    """One call, and the future that waits for it."""

    __slots__ = ("future",)

    def __init__(
        self, prefix: str, place: str, kind: bytes, key: str, event: str, future: asyncio.Future[bytes], deadline: float
    ) -> None:
        digest = blake2b(place.encode(), digest_size=15).digest()
        tag = digest[0] % TAGS
        start = f"{prefix}:{{{tag:02}}}:parked:{urlsafe_b64encode(digest).decode()}".encode()
        of_key = urlsafe_b64encode(blake2b(key.encode(), digest_size=15).digest())
        super().__init__(RedisClaim((place, "", "", ""), tag, start, 0.0, 0.0), deadline)
        self.future = future
        keys = (start, start + b":" + of_key + b":w", start + b":" + of_key + b":f")
        self.call = (_PARK, keys, (kind, key.encode(), event.encode()), self._take)

    def _take(self, answer: bytes) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Tell the caller, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


def list_keys(answer: bytes) -> dict[str, int]:
    """What ``L`` answers."""
    lines = answer.decode().split("\n") if answer else []
    return {key: int(count) for key, count in zip(lines[::2], lines[1::2], strict=True)}


def park(answer: bytes) -> ParkedRow | None:
    """What ``P`` and ``B`` answer."""
    kind, _, rest = answer.partition(b" ")
    if kind == b"N":
        return None
    number, _, first = rest.partition(b" ")
    return ParkedRow(int(number), first.decode(), kind == b"F")


def unpark(answer: bytes) -> int:
    """What ``U`` and ``A`` answer."""
    return int(answer.partition(b" ")[2])
