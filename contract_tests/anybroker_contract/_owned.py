"""Names of headers that ``publish`` refuses on every broker, because on one of them they do not belong to the
caller."""

__all__ = ["OWNED"]

OWNED = (
    *("ce_id", "ce-id", "CE_TYPE", "Ce-Subject", "cloudEvents_id", "cloudevents-x", "content-type", "Content-Type"),
    *("anybroker", "anybroker-data", "anybroker-attempts", "anybroker-not-before", "anybroker-replays"),
    *("Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", "nats-expected-stream", "x-death", "x-first-death-queue"),
    *("x-delivery-count", "x-acquired-count", "CC", "bcc"),
)
