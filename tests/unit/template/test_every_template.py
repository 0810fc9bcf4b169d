"""What all templates in sam/ promise, whatever they make."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparklet.local.local_template import parse_template
from tests.unit.template.reading import as_list

SAM = Path(__file__).resolve().parents[3] / "sam"
TEMPLATES = {path.name: parse_template(path.read_text(encoding="utf-8")) for path in sorted(SAM.glob("*.yaml"))}


def every_statement(node: Any) -> Iterator[dict[str, Any]]:
    """The statements of policies anywhere below, conditional ones included."""
    if isinstance(node, list):
        for each in node:
            yield from every_statement(each)
    elif isinstance(node, dict):
        if "Effect" in node:
            yield node
        for each in node.values():
            yield from every_statement(each)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_stack_is_described_by_its_name(name: str) -> None:
    """A caller knows a stack's name, which is authorized as NAME/*; its id is another ARN."""
    of_stacks = [
        resource
        for statement in every_statement(TEMPLATES[name]["Resources"])
        if "cloudformation:DescribeStacks" in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    ]

    assert all(":stack/${AWS::StackName}/*" in json.dumps(resource) for resource in of_stacks)
    assert bool(of_stacks) == (name == "functions.yaml")
