"""Checks every event that a script gets in a test against docs/schemas/event.json."""

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schemas/event.json").read_text())
jsonschema.Draft202012Validator.check_schema(SCHEMA)
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def check_event(event: Any) -> None:
    """Raise ValidationError if an event that Sparklet built does not match the schema; other events are not checked."""
    built = event.get("sparklet") if isinstance(event, dict) else None
    if isinstance(built, dict) and not {"run", "task", "committed"}.isdisjoint(built):
        _VALIDATOR.validate(event)
