"""Who may do what, as the pages tell it: compared with the code's calls and the templates; what is taken out is named.

Whether a role may do what its code calls: ``tests/deploy/test_simulated_rights.py``.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest

from docs import rights
from tests.unit.template.reading import ROOT, TEMPLATES, as_list, every_statement

GUIDE = ROOT / "docs" / "guide" / "deploy.md"


def test_every_call_of_aws_is_a_callers_or_a_roles() -> None:
    assert rights.unknown() == set()
    assert len(rights.called()) > 50


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_page_lists_each_action_of_each_statement(name: str) -> None:
    """If not, write the page again: python -m docs.rights docs/guide/deploy.md."""
    page = rights.PAGE.read_text(encoding="utf-8")

    def rows(template: dict[str, Any]) -> str:
        return "\n".join(map(rights.row, rights.rights_of(template)))

    assert rows(TEMPLATES[name]) in page
    fewer = copy.deepcopy(TEMPLATES[name])
    for statement in every_statement(fewer["Resources"]):
        if statement["Effect"] != "Allow" or "Principal" in statement:
            continue
        for action in (given := as_list(statement["Action"])):
            statement["Action"] = [each for each in given if each != action]
            assert rows(fewer) not in page, (statement.get("Sid"), action)
            statement["Action"] = given


@pytest.mark.parametrize("place", range(len(rights.NEEDS)))
def test_a_call_missing_in_the_table_of_needs_is_named(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    need = rights.NEEDS[place]
    for call in need.calls:
        fewer = replace(need, calls=tuple(each for each in need.calls if each != call))
        monkeypatch.setattr(rights, "NEEDS", (*rights.NEEDS[:place], fewer, *rights.NEEDS[place + 1 :]))

        assert rights.unknown() == {call}
        monkeypatch.undo()


def test_the_guide_has_the_generated_table() -> None:
    """If not, write the page again: python -m docs.rights docs/guide/deploy.md."""
    assert rights.table() in GUIDE.read_text(encoding="utf-8")


def test_the_guide_has_the_generated_endpoints() -> None:
    """If not, write the page again: python -m docs.rights docs/guide/deploy.md."""
    assert rights.endpoint_table() in GUIDE.read_text(encoding="utf-8")


def test_the_guide_has_the_list_of_engines() -> None:
    """If not, write the page again: python -m docs.rights docs/guide/deploy.md."""
    assert rights.engine_list() in rights.ELSEWHERE.read_text(encoding="utf-8")


def test_endpoints_follow_from_the_calls_of_a_function() -> None:
    every = {
        (name, body["Properties"]["Role"]["Fn::GetAtt"][0])
        for name, template in TEMPLATES.items()
        for body in template["Resources"].values()
        if body["Type"] == "AWS::Serverless::Function"
    }
    assert rights.functions_of().keys() == every | {rights.BUILD}
    assert rights.endpoints(("template.yaml", "DlqConsumerRole")) == {
        "dynamodb": [],
        "events": ["NoticeBusArn"],
        "s3": [],
        "sns": ["NoticeTopicArn"],
        "sqs": [],
    }
    of_checker = rights.endpoints(("template.yaml", "CheckerRole"))
    assert of_checker["lambda"] == ["an engine", "LargeFunction"] and of_checker["ecs"] == ["FargateTaskDefinition"]
    assert rights.endpoints(rights.BUILD).keys() == {"ecr.api", "ecr.dkr", "logs", "s3"}
