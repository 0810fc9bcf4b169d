"""Pages and workflows: links lead somewhere, what users may name is described, and what is named exists."""

import re
import tomllib
from pathlib import Path

import pytest

import sparklet
from sparklet import job
from sparklet.job import errors
from sparklet.local.local_template import load_template
from sparklet.worker.executor import PERMANENT_CAUSES

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)

    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", address):
            assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+/\S*", address), address
        else:
            path, _, anchor = address.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), address
            assert not anchor or anchor in anchors(target), address


def test_every_page_that_code_and_templates_name_is_there() -> None:
    folders = ("runtime", "benchmarks", "docker", "sam", "spark_scripts", "tests")
    files = (
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".yaml", ".toml"}
    )
    named = {found for path in files for found in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text())}

    assert named
    assert not [each for each in sorted(named) if not (ROOT / each).is_file()]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/tutorial.md"])
def test_a_page_names_the_size_of_the_jars_that_are_fetched(page: str) -> None:
    stack = tomllib.loads((ROOT / "docker/stacks/spark-3.5.toml").read_text())
    fetched_mb = sum(jar["size_bytes"] for jar in stack["jar"] if jar["group"] in stack["local"]) / 1e6

    [told_mb] = re.findall(r"(\d+) MB\)? (?:of jars|come into|into your cache)", (ROOT / page).read_text())

    assert int(told_mb) == round(fetched_mb, -1)


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()

    described = set(re.findall(r"^\.\. auto\w+:: [\w.]+\.(\w+)", page, re.M))

    assert {*sparklet.__all__, *job.__all__} - described == {"__version__", "OUTCOME_FILE"}


def test_each_class_of_the_reference_has_an_example_first() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    sections = [each for each in re.split(r"^##+ .*$", page, flags=re.M)[1:] if ".. auto" in each]

    for section in sections:
        before = section.partition("```{eval-rst}")[0]
        [example] = re.findall(r"^```python\n(.*?)^```", before, re.M | re.S)
        compile(example, "example", "exec")
        assert section.count("```{eval-rst}") == 1
    assert len(sections) > 12


def test_every_cause_that_a_script_can_meet_is_explained() -> None:
    """What is not retried, and what Sparklet raises within a script."""
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)} - {"SparkletError"}

    page = (ROOT / "docs" / "reference" / "errors.md").read_text()

    assert sorted(name for name in raised | PERMANENT_CAUSES if f"`{name}" not in page) == []


def test_what_the_guide_to_migration_names_exists() -> None:
    """Commands, options and the template's parameters, in the right columns of its tables."""
    rows = [row for row in (ROOT / "docs/guide/migrate.md").read_text().splitlines() if row.startswith("| ")]
    code = re.findall(r"`([^`]+)`", "\n".join(row.rsplit(" | ", 1)[1] for row in rows))
    commands = {text.split()[1] for text in code if text.startswith("sparklet ")}
    options = {word for text in code for word in re.findall(r"(?<![\w-])--[a-z-]+", text.partition(" -- ")[0])}
    parameters = {found[1] for text in code if (found := re.match(r"([A-Z][a-z]+(?:[A-Z]+[a-z]*)+)(=|$)", text))}
    reference = (ROOT / "docs/reference/commands.md").read_text()

    assert len(commands) > 2 and len(options) > 10 and len(parameters) > 6
    assert [each for each in sorted(commands) if f"\n## sparklet {each}\n" not in reference] == []
    assert [each for each in sorted(options) if f"`{each}`" not in reference] == []
    assert parameters - load_template()["Parameters"].keys() == set()


def test_actions_of_workflows_are_pinned_by_commit() -> None:
    """A tag can be moved to other code; a commit, with the tag it had in a comment, cannot."""
    workflows = [*(ROOT / ".github").rglob("*.yml"), *(ROOT / "examples").rglob("*.yml")]
    used = [line.strip() for path in workflows for line in path.read_text().splitlines() if "uses:" in line]

    assert used and all(re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used), used
