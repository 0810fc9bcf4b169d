"""docs/guide/deploy.md names only existing parameters, outputs, resources, commands and options."""

import re
from collections.abc import Iterator

import pytest

from tests.unit.template.reading import MAIN, ROOT, TEMPLATES

GUIDE = ROOT / "docs" / "guide" / "deploy.md"
# AWS's own words that look like names of our templates.
FOREIGN = {
    *("AccessDeniedException", "BatchGetItem", "ConditionCheckItem", "DeleteItem", "GetItem", "PutItem", "UpdateItem"),
    *("DeletionPolicy", "UpdateReplacePolicy", "RetainExceptOnCreate"),
    *("StackResources", "ResourceType", "PhysicalResourceId", "BucketOwnerFullControl"),
}


@pytest.fixture(scope="module")
def text() -> str:
    return GUIDE.read_text()


@pytest.fixture(scope="module")
def names() -> set[str]:
    """The names of all parameters, resources and outputs of the templates."""
    parts = ("Parameters", "Resources", "Outputs")
    return {name for template in TEMPLATES.values() for part in parts for name in template.get(part, {})}


def commands(text: str) -> Iterator[str]:
    """The lines of code blocks, and the code within lines of text."""
    yield from re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
        yield from block.splitlines()


def test_every_named_parameter_output_and_resource_exists(text: str, names: set[str]) -> None:
    words = {word for code in commands(text) for word in re.findall(r"(?<![\w:-])[A-Z][a-z]+(?:[A-Z]+[a-z]*)+\b", code)}

    assert len(words) > 30
    assert not words - names - FOREIGN


def test_every_value_in_an_example_is_allowed(text: str) -> None:
    parameters = MAIN["Parameters"]
    pairs = [pair for code in commands(text) for pair in re.findall(r"\b([A-Z]\w+)=([^\s`…]+)", code)]

    assert pairs
    for name, value in pairs:
        allowed = parameters.get(name, {}).get("AllowedValues")
        assert allowed is None or value in map(str, allowed), f"{name}={value}"


def test_every_sparklet_command_and_its_options_exist(text: str) -> None:
    reference = (ROOT / "docs" / "reference" / "commands.md").read_text()  # made from the commands' own help
    by_title = {s.partition("\n")[0].strip(): s for s in re.split(r"^###? ", reference, flags=re.M)}
    sections = {s.split()[0]: s for s in re.split(r"^## sparklet ", reference, flags=re.M)[1:]}
    for name, section in sections.items():  # the page has options that several commands share only once
        titles = re.findall(r"\[([^]]+)\]\(#", section) + ["Where and how"] * (name != "package")
        sections[name] += "".join(by_title[" ".join(title.split())] for title in titles)
    used = [code.split() for code in commands(text) if code.startswith("sparklet ")]

    assert used
    for words in used:
        assert words[1] in sections, words
        missing = [word for word in words if word.startswith("--") and f"`{word}`" not in sections[words[1]]]
        assert not missing, words


def test_every_target_of_make_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))

    assert {code.split()[1] for code in commands(text) if code.startswith("make ")} <= targets
