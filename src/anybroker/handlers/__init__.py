"""Handlers: what their signatures ask for, and how they are called."""

from __future__ import annotations

from .signature import HandlerSpec, Parameter, Wants, caller, invoker, leftover, read_handler

__all__ = ["HandlerSpec", "Parameter", "Wants", "caller", "invoker", "leftover", "read_handler"]
