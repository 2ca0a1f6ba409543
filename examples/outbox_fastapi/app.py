"""The application: FastAPI, SQLAlchemy, and a Bus whose outbox is in the same database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, PositiveInt
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from anybroker import Bus, event_type
from anybroker.bus import AdapterFactory


class Table(DeclarativeBase):
    pass


class Order(Table):
    __tablename__ = "shop_order"
    id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]


class NewOrder(BaseModel):
    id: str
    customer: str
    cents: PositiveInt


@event_type("com.example.order.placed.v1", key="customer")
class OrderPlaced(BaseModel):
    order: str
    customer: str
    cents: int


def make_app(database: str, broker: str | AdapterFactory | None = None) -> FastAPI:
    """``database``: ``sqlite:///shop.db`` or ``postgresql://user@host/shop``."""
    driver = database.replace("sqlite://", "sqlite+aiosqlite://").replace("postgresql://", "postgresql+psycopg://")
    engine = create_async_engine(driver)
    sessions = async_sessionmaker(engine)
    bus = Bus(broker, source="shop", outbox=database)

    @bus.subscribe("orders", group="billing")
    async def charge(order: OrderPlaced) -> None:
        print(f"charging {order.customer} for {order.order}: {order.cents} cents", flush=True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with bus:  # the relay runs; it makes the outbox's tables
            async with engine.begin() as connection:
                await connection.run_sync(Table.metadata.create_all)
            yield
        await engine.dispose()

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.state.bus = bus

    @app.post("/orders", status_code=201)
    async def place(new: NewOrder) -> NewOrder:
        try:
            async with sessions() as session, session.begin():
                session.add(Order(**new.model_dump()))
                placed = OrderPlaced(order=new.id, customer=new.customer, cents=new.cents)
                await bus.publish("orders", placed, within=session)
        except IntegrityError:  # rolled back, and so is the event
            raise HTTPException(409, f"there is an order {new.id!r} already") from None
        return new

    return app
