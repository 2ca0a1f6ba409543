"""One event, published and handled. With ``Bus()`` the broker would be the one that ``ANYBROKER_URL`` names."""

import asyncio

from pydantic import BaseModel

from anybroker import Bus, event_type


@event_type("com.example.order.placed.v1", key="customer")
class OrderPlaced(BaseModel):
    customer: str
    cents: int


bus = Bus("memory://", source="shop")
charged = asyncio.Event()


@bus.subscribe("orders", group="billing")
async def charge(order: OrderPlaced) -> None:
    print(f"charging {order.customer}: {order.cents} cents")
    charged.set()


async def main() -> None:
    async with bus:  # connects, provisions, starts the subscriptions; on exit drains and closes
        await bus.publish("orders", OrderPlaced(customer="c-7", cents=999))
        await charged.wait()


if __name__ == "__main__":
    asyncio.run(main())
