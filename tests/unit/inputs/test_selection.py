"""Include and exclude patterns: what they match, and that objects left out are counted."""

import pytest

from sparklet.planning.inputs.selection import Filter, Reason, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "2013/01/a.csv", True),  # without a slash: the file name, at any depth
        ("*.csv", "a.csv.gz", False),
        ("2013/*.csv", "2013/a.csv", True),
        ("2013/*.csv", "2013/01/a.csv", False),
        ("2013/*.csv", "x/2013/a.csv", False),
        ("2013/**", "2013/01/a.csv", True),
        ("2013/**", "2013", False),
        ("**/_temporary/**", "_temporary/a", True),
        ("**/_temporary/**", "x/y/_temporary/z/a", True),
        ("**/a.csv", "a.csv", True),
        ("**/**/a.csv", "x/a.csv", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("a//b*", "a//bc", True),
        (".*", "x/.hidden", True),
        ("/a.csv", "a.csv", True),
        ("/a.csv", "x/a.csv", False),
        ("part-?.csv", "part-1.csv", True),
        ("part-?.csv", "part-12.csv", False),
        ("part-[0-2].csv", "part-1.csv", True),
        ("part-[!0-2].csv", "part-1.csv", False),
        ("part-[!0-2].csv", "part-7.csv", True),
        ("a[].csv", "a[].csv", True),
        ("a[z-a].csv", "az.csv", False),
        ("[", "[", True),
        ("a.csv", "abcsv", False),  # a dot is a dot
        ("A.csv", "a.csv", False),
        ("über*.csv", "über uns.csv", True),
        ("line*", "line\nbreak", True),
    ],
)
def test_a_pattern_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


def test_exclude_wins_over_include_and_both_are_counted() -> None:
    wanted = Filter(include=["*.csv"], exclude=["tmp*"])

    kept = [name for name in ("a.csv", "b.json", "tmp1.csv", "x/tmp2.csv", "tmp.json") if wanted.keeps(name)]

    assert kept == ["a.csv"]
    assert wanted.skipped == {Reason.NOT_INCLUDED: 2, Reason.EXCLUDED: 2}


def test_without_patterns_everything_is_kept() -> None:
    assert all(Filter().keeps(name) for name in ("_SUCCESS", ".hidden", "a/b/c"))
