"""docs/guide/deploy.md names what there is: parameters, outputs, resources, commands and their options."""

import re
from collections.abc import Iterator

import pytest

from tests.unit.template.reading import MAIN, ROOT, TEMPLATES

GUIDE = ROOT / "docs" / "guide" / "deploy.md"
# Words of AWS that are no names of ours.
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
    """Whatever the templates name."""
    parts = ("Parameters", "Resources", "Outputs")
    return {name for template in TEMPLATES.values() for part in parts for name in template.get(part, {})}


def commands(text: str) -> Iterator[str]:
    """Lines of code, and code within a line."""
    yield from re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
        yield from block.splitlines()


def test_every_named_parameter_output_and_resource_exists(text: str, names: set[str]) -> None:
    said = {word for code in commands(text) for word in re.findall(r"(?<![\w:-])[A-Z][a-z]+(?:[A-Z]+[a-z]*)+\b", code)}

    assert len(said) > 30
    assert not said - names - FOREIGN


def test_every_value_in_an_example_is_allowed(text: str) -> None:
    parameters = MAIN["Parameters"]
    given = [pair for code in commands(text) for pair in re.findall(r"\b([A-Z]\w+)=([^\s`…]+)", code)]

    assert given
    for name, value in given:
        allowed = parameters.get(name, {}).get("AllowedValues")
        assert allowed is None or value in map(str, allowed), f"{name}={value}"


def test_every_command_of_ours_and_its_options_exist(text: str) -> None:
    reference = (ROOT / "docs" / "reference" / "commands.md").read_text()  # made from the commands' own help
    shared = {s.partition("\n")[0].strip(): s for s in re.split(r"^###? ", reference, flags=re.M)}
    sections = {s.split()[0]: s for s in re.split(r"^## sparklet ", reference, flags=re.M)[1:]}
    for name, section in sections.items():  # groups of options that several commands have stand once on the page
        titles = re.findall(r"\[([^]]+)\]\(#", section) + ["Where and how"] * (name != "package")
        sections[name] += "".join(shared[" ".join(title.split())] for title in titles)
    used = [code.split() for code in commands(text) if code.startswith("sparklet ")]

    assert used
    for words in used:
        assert words[1] in sections, words
        missing = [word for word in words if word.startswith("--") and f"`{word}`" not in sections[words[1]]]
        assert not missing, words


def test_every_target_of_make_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))

    assert {code.split()[1] for code in commands(text) if code.startswith("make ")} <= targets
