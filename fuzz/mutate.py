"""Edits of inputs without atheris: at random, with the kinds of edits that libFuzzer makes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

__all__ = ["TOKENS", "mutate"]

TOKENS: Sequence[bytes] = (
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"NaN",
        b"-",
        b"1e999",
        b"true",
        b"/",
        b"1.0",
        b"0.3",
        b'"data" :',
        b" ",
        b"\n",
    ),
    *(b"\xff", b"\x00", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b'"data":', b'"data_base64":"', b'"\\u0064ata":1'),
    *(b"%", b"%ff", b"%00", b"=", b";", b"; charset=utf-16", b"; charset=idna", b"application/cloudevents", b"a/b"),
    *(b"\xef\xbf\xbe", b"\xf0\x9f\x98\x80", b"2018-04-05T17:31:60Z", b"\xef\xbb\xbf", b"ce_", b"ce-", b"cloudEvents:"),
    *(
        b"\x1d",
        b"\x1e",
        b"\x1f",
        b"content-type",
        b"application/json",
        b"anybroker-",
        b"anybroker-data",
        b"\x1b[2J",
        b"\xe2\x80\xae",
        b"\xc2\x9b",
    ),
    *(
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\x80\x00\x00\x00",
        b"\x00\x00\x00\x01",
        b"9" * 400,
        b"[" * 300,
        b"NATS/1.0\r\n",
    ),
    *(b"\r\n", b"Notification", b"Message", b"1|0|", b"0-1000000,", b"-1", b"\xd9\xa3", b"_", b"://", b"@", b"."),
)


def mutate(random: Random, data: bytes, most: int) -> bytes:
    """One input similar to this one, of at most ``most`` bytes."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(made) + 1)
        match random.randrange(7):
            case 0:
                del made[at : at + random.randrange(1, 8)]
            case 1:
                made[at:at] = random.choice(TOKENS)
            case 2:
                made[at : at + random.randrange(1, 6)] = random.choice(TOKENS)
            case 3:
                made[at : at + 1] = bytes((random.randrange(256),))
            case 4:
                del made[at:]
            case 5:
                start = random.randrange(len(made) + 1)
                made[at:at] = made[start : start + random.randrange(1, 40)]
            case 6 if made:
                made[at % len(made)] ^= 1 << random.randrange(8)
            case _:
                pass
    return bytes(made[:most])
