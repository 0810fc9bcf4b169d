"""Ivy's input files and options, and the causes that are read from its log."""

import xml.etree.ElementTree as ElementTree

import pytest

from sparklet.local.ivy import Coordinate, module_xml, proxy_options, settings_xml, why_failed


def test_a_coordinate_gives_the_jars_file_name() -> None:
    jar = Coordinate.parse("io.delta:delta-spark_2.12:3.3.3")

    assert (jar.organisation, jar.artifact, jar.version) == ("io.delta", "delta-spark_2.12", "3.3.3")
    assert jar.file_name == "delta-spark_2.12-3.3.3.jar"
    assert Coordinate.parse("org:one:1:tests").file_name == "one-1-tests.jar"


@pytest.mark.parametrize("text", ["", "a:b", "a:b:c:", "a:b:c:d:e", "a::c", "a:../../b:c", 'a:b"/>:c', "a b:c:d"])
def test_anything_else_is_no_coordinate(text: str) -> None:
    with pytest.raises(ValueError, match="is not organisation:artifact:version"):
        Coordinate.parse(text)


def test_only_the_jars_themselves_are_requested() -> None:
    module = ElementTree.fromstring(module_xml([Coordinate("org", "one", "1"), Coordinate("org", "two", "2")]))

    asked = [(d.get("org"), d.get("name"), d.get("rev"), d.get("transitive")) for d in module.iter("dependency")]
    assert asked == [("org", "one", "1", "false"), ("org", "two", "2", "false")]


def test_a_module_is_requested_once_with_all_its_jars() -> None:
    module = ElementTree.fromstring(module_xml([Coordinate("org", "one", "1"), Coordinate("org", "one", "1", "tests")]))

    (dependency,) = module.iter("dependency")
    classifier = "{http://ant.apache.org/ivy/maven}classifier"
    assert [artifact.get(classifier) for artifact in dependency] == ["", "tests"]


def test_without_a_mirror_no_address_is_written() -> None:
    assert "://" not in settings_xml(None)


def test_a_mirror_is_the_requested_root() -> None:
    settings = ElementTree.fromstring(settings_xml("https://mirror.example/a?b=1&c=2"))

    assert next(settings.iter("ibiblio")).get("root") == "https://mirror.example/a?b=1&c=2"


# As Ivy 2.5.3 prints them.
_NO_HOST = """
:: resolving dependencies :: sparklet#jars;working@vm
	Host repo.example not found. url=https://repo.example/a/b/1/b-1.jar
		module not found: a#b;1
"""
_NO_TRUST = """
		module not found: a#b;1
:::: ERRORS
	Server access error at url https://a.example/b.jar (javax.net.ssl.SSLHandshakeException: PKIX path building failed)
"""
_REFUSED = """
		module not found: a#b;1
	Server access error at url https://repo.example/b-1.jar (java.net.ConnectException: Connection refused)
"""
_NOT_THERE = """
		module not found: com.example#no-such-thing;1.0
		:: com.example#no-such-thing;1.0: not found
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (_NO_HOST, "the host repo.example cannot be found (no network?)"),
        (_NO_TRUST, "Java does not trust the server's certificate"),
        (_REFUSED, "Connection refused"),
        (_NOT_THERE, "the repository has no com.example:no-such-thing:1.0"),
        ("Error: could not create the Java Virtual Machine.", "could not create the Java Virtual Machine"),
        ("", "without output"),
    ],
)
def test_the_true_cause_is_reported(log: str, cause: str) -> None:
    assert cause in why_failed(log)


def test_proxies_are_passed_in_javas_form() -> None:
    options = proxy_options({"https": "http://proxy.example:3128", "no": "localhost"})

    assert options[:2] == ["-Dhttps.proxyHost=proxy.example", "-Dhttps.proxyPort=3128"]
    assert options[2:] == ["-Dhttp.nonProxyHosts=localhost"]  # Java uses this for both schemes


def test_hosts_without_a_proxy_are_passed_in_javas_form() -> None:
    options = proxy_options({"https": "http://proxy.example:3128", "no": "localhost, .corp.example,10.0.0.7"})

    assert options[-1] == "-Dhttp.nonProxyHosts=localhost|*.corp.example|10.0.0.7"
    assert proxy_options({"no": "localhost"}) == []
