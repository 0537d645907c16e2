"""A message as the bytes that a store keeps."""

from __future__ import annotations

from typing import Any

from dramatiq import Message, get_encoder

from .errors import EncodeError

__all__ = ["encoded", "encoded_without_eta"]


def encoded(message: Message[Any]) -> bytes:
    """The payload of a message.

    Raises:
        EncodeError: it cannot be encoded.
    """
    try:
        # Not message.encode(): it looks up the names of the fields for each message.
        return get_encoder().encode(
            {
                "queue_name": message.queue_name,
                "actor_name": message.actor_name,
                "args": message.args,
                "kwargs": message.kwargs,
                "options": message.options,
                "message_id": message.message_id,
                "message_timestamp": message.message_timestamp,
            }
        )
    except Exception as error:
        raise EncodeError(
            f"message to actor {message.actor_name!r} cannot be encoded ({type(error).__name__}: {error}): send plain "
            "values or ids in place of objects, or set another encoder with dramatiq.set_encoder()"
        ) from error


def encoded_without_eta(message: Message[Any]) -> bytes:
    """Encode a message whose options are its own: what is delivered has no eta."""
    eta = message.options.pop("eta")
    try:
        return encoded(message)
    finally:
        message.options["eta"] = eta
