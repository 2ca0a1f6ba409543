"""How payloads become bytes and back: :class:`Codec` is the port, :class:`PydanticJson` the built-in codec."""

from .port import Codec, Decode
from .pydantic_json import PydanticJson, validator

__all__ = ["Codec", "Decode", "PydanticJson", "validator"]
