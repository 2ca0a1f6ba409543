"""What the supervisor tells the services, through the environment: ``DEMO_RUN``, ``DEMO_FOLDER``, …"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Demo", "demo"]


class Demo(BaseSettings):
    """One run. A service that is started alone has the defaults, and nothing goes wrong on purpose."""

    model_config = SettingsConfigDict(env_prefix="DEMO_", frozen=True)

    run: str = Field(default="demo", description="Prefix of the topics and of the order numbers: runs do not mix.")
    folder: Path = Field(default=Path(), description="Where the services keep their databases.")
    orders: int = Field(default=1000, ge=1, description="How many purchases the customers make.")
    rate: float = Field(default=200.0, gt=0, description="Purchases a second.")
    seed: int = Field(default=7, description="The seed of the plan of faults.")
    faults: bool = Field(default=False, description="Whether the plan is carried out, and the run's history written.")
    forgetful_bank: bool = Field(
        default=False, description="The bank ignores idempotency keys: the checks must notice."
    )

    def environment(self) -> dict[str, str]:
        """The same, for a child process."""
        return {f"DEMO_{name.upper()}": str(value) for name, value in self.model_dump().items()}


@cache
def demo() -> Demo:
    """The settings of this process."""
    return Demo()
