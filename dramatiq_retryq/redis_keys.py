"""How Redis is called: the names of the keys beside a ``RedisBroker``'s own, and clear errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from .errors import StoreUnavailable
from .logs import said_by

__all__ = ["Keys"]

T = TypeVar("T")


class Keys:
    """The keys beside those of a ``RedisBroker``, in its namespace; they begin with ``$namespace:__retryq__.``.

    Args:
        broker: the ``RedisBroker``.
    """

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.namespace: str = broker.namespace

    def own(self, name: str) -> str:
        return f"{self.namespace}:__retryq__.{name}"

    def queue(self, name: str) -> str:
        return f"{self.namespace}:{name}"

    def script(self, source: str) -> Callable[[list[str], list[Any]], Any]:
        """A script that is sent once, and called by its hash from then on."""
        script = self._broker.client.register_script(source)
        return lambda keys, args: self.call(lambda client: script(keys=keys, args=args, client=client))

    def call(self, function: Callable[[Any], T]) -> T:
        """What a function makes of the broker's client; called once more, over a new connection, if that was lost.

        What it asks for may have been done by then, and only the answer be lost: asked for again, it must do no more.
        The client may repeat it as well, by itself.

        Raises:
            StoreUnavailable: the server cannot be reached, refuses the password, or cannot write.
        """
        import redis

        try:
            try:
                return function(self._broker.client)
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError):
                return function(self._broker.client)
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis at {self.place} cannot be used: {said_by(error).rstrip('.')}") from error
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a time limit
            # One of them may wait for an answer, and give it to whoever asks next.
            with suppress(Exception):
                self._broker.client.connection_pool.disconnect(inuse_connections=False)
            raise

    @property
    def place(self) -> str:
        """Where the server is, for people; without the password."""
        settings = self._broker.client.connection_pool.connection_kwargs
        if "path" in settings:
            return str(settings["path"])
        return f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}/{settings.get('db', 0)}"
