"""The built-in codec: JSON written and validated by pydantic, text and bytes by their content type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from ..cloudevents.event import Event
from ..cloudevents.media_type import JSON, media_type
from ..cloudevents.payload import encode
from ..errors import ConfigError, DecodeError
from .annotations import show
from .port import Decode

__all__ = ["PydanticJson", "validator"]


class PydanticJson:
    """Writes JSON, and reads JSON, ``text/*`` and bytes; what is read is validated by pydantic."""

    name = "json"
    content_types = (JSON,)

    def encode(self, payload: object, topic: str, type: str, /) -> tuple[bytes, str, str | None]:
        """As :meth:`anybroker.Event.create`, which does so without asking."""
        body, content_type = encode(payload, None)
        return body, content_type, None

    def decoder(self, annotation: object, topic: str, /) -> Decode:
        """A function from an event to its validated payload. ConfigError for what pydantic cannot validate."""
        adapter = _adapter(annotation)
        validate_json = adapter.validator.validate_json
        validate_python = adapter.validator.validate_python
        shown = show(annotation)

        def decode(event: Event[Any]) -> Any:
            body = event.body
            if body is None:
                raise no_data(shown)
            try:
                if _is_json(event.datacontenttype):
                    return validate_json(body)
                return validate_python(event.data)
            except ValidationError as exc:
                raise _invalid(shown, exc) from None

        return decode


def validator(annotation: object) -> Callable[[object], Any]:
    """For codecs: a function that makes a payload of this annotation out of decoded data (dicts, lists, strings, …).

    It raises :class:`~anybroker.errors.DecodeError` for data that do not fit. ConfigError for an annotation that
    pydantic cannot validate.
    """
    validate = _adapter(annotation).validator.validate_python
    shown = show(annotation)

    def payload(data: object) -> Any:
        try:
            return validate(data)
        except ValidationError as exc:
            raise _invalid(shown, exc) from None

    return payload


def no_data(shown: str) -> DecodeError:
    """The event has none, and a handler asks for it."""
    return DecodeError(f"the event has no data, and the handler asks for {shown}")


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as exc:
        raise ConfigError(
            "payload",
            f"pydantic cannot validate {show(annotation)}: {exc.message}",
            "Use a pydantic model, a dataclass, a TypedDict or a plain JSON type.",
        ) from exc


def _invalid(shown: str, exc: ValidationError) -> DecodeError:
    problems = "; ".join(
        f"{'.'.join(map(str, error['loc'])) or 'data'}: {error['msg']}"
        for error in exc.errors(include_input=False, include_url=False, include_context=False)[:5]
    )
    return DecodeError(f"the data is not a valid {shown}: {problems}")


def _is_json(content_type: str | None) -> bool:
    return content_type is None or content_type == JSON or media_type(content_type).json
