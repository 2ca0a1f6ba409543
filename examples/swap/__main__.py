"""One program, any broker: ``ANYBROKER_URL=… python -m examples.swap`` prints what happened to each event, as JSON.

Of these scans of parcels one fails twice, one always, one is not JSON. Starts, order by key, headers and dead letters
are the same on every broker; what a broker cannot do is refused at the start (``refused``; null where it can).
"""

import asyncio
import json
import secrets
import sys
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from anybroker import Bus, Delivery
from anybroker.errors import CapabilityError
from anybroker.middleware import dead_letter, retry


class Scan(BaseModel):
    place: str


TYPE, PLACES, KEYS = "com.example.parcel.scanned.v1", ("Lille", "Gent", "Köln", "Graz"), ("parcel-1", "parcel-2", None)
FLAKY, POISON, GARBLED = "parcel-1/Gent", "parcel-2/Gent", "parcel-2/Köln"


def facts(event: Any, headers: Any, **more: Any) -> dict[str, Any]:
    own = {name: value for name, value in sorted(headers.items()) if not name.startswith("anybroker-dead-")}
    return {"attributes": dict(sorted(event.attributes.items())), "body": event.body.decode(), "headers": own, **more}


async def run(broker: Any, topic: str) -> dict[str, Any]:
    """Publish to a new topic, handle everything, and report it event by event."""
    bus = Bus(broker, source="depot")
    order, starts, ended, all_ended = defaultdict[str, Any](list), defaultdict[str, Any](list), set(), asyncio.Event()

    def end(delivery: Delivery) -> None:
        ended.add((delivery.group, delivery.event.id))
        if len(ended) == 2 * len(PLACES) * len(KEYS) - 2:  # all but the two that die
            all_ended.set()

    @bus.subscribe(topic, group="depot")
    @dead_letter()
    @retry(attempts=3, first=0.02)
    async def arrive(scan: Scan, delivery: Delivery) -> None:
        event = delivery.event
        starts[event.id].append(facts(event, delivery.headers, attempt=delivery.attempt, place=scan.place))
        if event.id == POISON or (event.id == FLAKY and delivery.attempt < 3):
            raise ValueError(f"the scanner in {scan.place} is broken")
        end(delivery)

    @bus.subscribe(topic, group="audit")
    async def audit(delivery: Delivery) -> None:
        order[delivery.event.key or "no key"].append(delivery.event.id)
        end(delivery)

    async with bus:
        for hour, id, key in ((hour, f"{key}/{place}", key) for hour, place in enumerate(PLACES) for key in KEYS):
            data, time = b"{oops" if id == GARBLED else Scan(place=PLACES[hour]), f"2026-01-01T0{hour}:00:00Z"
            kind: Any = {"type": TYPE, "datacontenttype": "application/json"}
            await bus.publish(topic, data, id=id, key=key, time=time, headers={"x-belt": f"{hour} ä"}, **kind)
        await all_ended.wait()  # a dying event holds its key: what was behind the two is done, so they are dead letters
        dead = await bus.dead_letters(topic, "depot").list()
    letters = {item.id: facts(item.event, item.headers, attempts=item.attempts, reason=item.reason) for item in dead}
    order["no key"].sort()
    told = {"starts": dict(sorted(starts.items())), "order": dict(sorted(order.items())), "dead letters": letters}
    late = Bus(broker, source="depot")  # from a moment in the past, which not every broker can find
    late.subscribe(topic, group="late", start=datetime(2026, 1, 1, tzinfo=UTC))(audit)
    try:
        async with late:
            return {**told, "refused": None}
    except CapabilityError as error:
        return {**told, "refused": str(error)}


if __name__ == "__main__":
    json.dump(asyncio.run(run(None, f"parcels-{secrets.token_hex(3)}")), sys.stdout, indent=1, ensure_ascii=False)
