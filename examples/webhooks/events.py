"""The events that are delivered: a file with one JSON object a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def load_events(path: Path) -> list[dict[str, Any]]:
    """Read the events, or end the program with a sentence that says what is wrong with them."""
    events: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                event = json.loads(line)
                if not isinstance(event, dict):
                    sys.exit(f"{path}, line {number}: not a JSON object")
                if missing := {"id", "customer", "data"} - event.keys():
                    sys.exit(f"{path}, line {number}: the event has no {', '.join(sorted(missing))}")
                if event["id"] in events:
                    sys.exit(f"{path}, line {number}: a second event {event['id']}: give each an id of its own")
                events[event["id"]] = event
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")
    except json.JSONDecodeError as error:
        sys.exit(f"{path}, line {number}: not JSON: {error}")
    return list(events.values())
