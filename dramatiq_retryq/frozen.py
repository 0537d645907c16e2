"""Time that freezegun has stopped, for those who read the clock. Nothing here imports freezegun.

Asked for the time, freezegun looks at the five innermost callers, and whoever is called from ``threading`` is given
the real one: a thread that has just started would not see that time is frozen. So the frozen instant is read here.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any

__all__ = ["freezer", "instant_of", "move", "stands_still"]

_MILLISECOND = timedelta(milliseconds=1)
# In a tuple: what is a class of datetime's own and a module's attribute is replaced while time is frozen.
_EPOCH = (datetime(1970, 1, 1),)


def freezer() -> Any:
    """What ``freeze_time`` hands to whoever wants to tick, the innermost one; ``None`` while time runs."""
    api: Any = sys.modules.get("freezegun.api")
    return api.freeze_factories[-1] if api is not None and api.freeze_factories else None


def instant_of(frozen: Any, *, up: bool = False) -> int:
    """The frozen instant in whole milliseconds since the epoch, rounded down or up."""
    # Asked for the time, a freezer with auto_tick_seconds moves on; one that ticks by itself has to be asked.
    now = frozen() if _ticks_by_itself(frozen) else frozen.time_to_freeze
    since = now - _EPOCH[0]
    return -int(-since // _MILLISECOND) if up else int(since // _MILLISECOND)


def move(frozen: Any, instant: int) -> None:
    """Leap to an instant, given in milliseconds since the epoch."""
    frozen.move_to(_EPOCH[0] + timedelta(milliseconds=instant))


def stands_still(frozen: Any) -> bool:
    """Whether no time passes between two looks."""
    return not _ticks_by_itself(frozen)


def _ticks_by_itself(frozen: Any) -> bool:
    return hasattr(frozen, "start")  # freeze_time(tick=True)
