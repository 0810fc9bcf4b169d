"""Pages and workflows: links work, public names are described, and names in pages exist in the code."""

import re
from pathlib import Path

import pytest

import sparklet
from requirements.readme import described
from sparklet import job
from sparklet.job import errors
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
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def test_names_in_recipes_exist_in_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`(\w+)`[^`]{0,30}\(`([\w/]+\.py)`", text)
    assert len(named) > 10

    for name, path in named:
        (module,) = [place for place in (ROOT / path, ROOT / "runtime" / "sparklet" / path) if place.exists()]
        assert re.search(rf"\b{name}\b", module.read_text()), f"{name} is not in {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)

    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", address):
            assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+/\S*", address), address
        else:
            path, _, anchor = address.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), address
            assert not anchor or anchor in anchors(target), address


def test_every_page_that_code_and_templates_name_exists() -> None:
    folders = ("runtime", "benchmarks", "docker", "sam", "spark_scripts", "tests")
    files = (
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".yaml", ".toml"}
    )
    named = {found for path in files for found in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text())}

    assert named
    assert not [each for each in sorted(named) if not (ROOT / each).is_file()]


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()

    described = set(re.findall(r"^\.\. auto\w+:: [\w.]+\.(\w+)", page, re.M))

    assert {*sparklet.__all__, *job.__all__} - described == {"__version__", "OUTCOME_FILE"}


def test_every_cause_that_a_script_can_meet_is_explained() -> None:
    """These are errors that are not retried, and errors that Sparklet raises within a script."""
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)} - {"SparkletError"}

    page = (ROOT / "docs" / "reference" / "errors.md").read_text()

    assert sorted(name for name in raised | PERMANENT_CAUSES if f"`{name}" not in page) == []


def test_actions_of_workflows_are_pinned_by_commit() -> None:
    """A tag can be moved to other code, a commit cannot; a comment names the commit's tag."""
    workflows = [*(ROOT / ".github").rglob("*.yml"), *(ROOT / "examples").rglob("*.yml")]
    used = [line.strip() for path in workflows for line in path.read_text().splitlines() if "uses:" in line]

    used = [line for line in used if "uses: ./" not in line]  # this repository's own
    assert used and all(re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used), used


def test_the_wheel_that_pages_install_is_this_version() -> None:
    pages = [ROOT / "README.md", ROOT / "examples" / "github-actions.yml"]

    assert {version for page in pages for version in re.findall(r"sparklet-([\d.]+)-py3", page.read_text())} == {
        sparklet.__version__
    }


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("", "A B [C](https://c) [D](#d)\n"),
        (
            "https://h/o/r",
            "A [B](https://h/o/r/blob/v1/b.md#b) [C](https://c) [D](#d)\n![E](https://h/o/r/raw/v1/e.png)",
        ),
    ],
)
def test_a_package_page_has_no_relative_links(repository: str, expected: str) -> None:
    assert described("A [B](b.md#b) [C](https://c) [D](#d)\n![E](e.png)", repository, "v1") == expected
