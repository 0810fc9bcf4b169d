"""Redaction: which names count as secrets, where values are hidden, and that Sparklet's own keys are not."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sparklet.model import Access, Run, RunOptions, ShardRecord, TaskRecord
from sparklet.model.redaction import HIDDEN, SECRET, hidden, redacted
from sparklet.planning.request import RunRequest, places

SECRETS = """
password db_password DB_PASSWORD passwd secret client_secret token db_token auth-token access_tokens api_key
apiKey accessKey aws_access_key_id aws.secret.key credential credentials fernet_key pass db_pass pwd x-api-key
Authorization passphrase spark.hadoop.fs.s3a.secret.key private_key account_key --password --db-pass
"""
PLAIN = """
key keys partition_key partitionKey primary_key idempotency_key sort-key foreign_key join_keys merge_key
group_key order_key hash_key dedup_key s3_key object_key public_key monkey keyboard max_tokens
max_output_tokens tokenizer token_count secret_name password_file token_path secret_arn password_column
compass passenger bypass passes user name day path level author authority
"""
ROOT = Path(__file__).parents[2]


def test_names_of_secrets_are_recognized_as_in_spark() -> None:
    assert [name for name in SECRETS.split() if not re.search(SECRET, name)] == []


def test_names_that_only_look_like_secrets_are_not_hidden() -> None:
    assert [name for name in PLAIN.split() if re.search(SECRET, name)] == []


def keys_of(document: Any) -> set[str]:
    """Every key within a document."""
    if isinstance(document, dict):
        return set(document) | {key for each in document.values() for key in keys_of(each)}
    return {key for each in document for key in keys_of(each)} if isinstance(document, list) else set()


def test_no_key_of_sparklets_documents_counts_as_a_secret() -> None:
    ours = {
        each.name for kind in (Run, RunOptions, ShardRecord, TaskRecord, RunRequest, Access) for each in fields(kind)
    }
    ours |= {word for key, place in places().items() for word in (key, place.option)}
    for schema in (*ROOT.glob("docs/schemas/*.json"), *ROOT.glob("runtime/sparklet/**/*.schema.json")):
        ours |= keys_of(json.loads(schema.read_text()))
    assert len(ours) > 150
    assert {name for name in ours if re.search(SECRET, name)} == set()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--password", "x y"], ["--password", HIDDEN]),
        (["--password=x y"], [f"--password={HIDDEN}"]),
        (["-p", "db_token=x=y"], ["-p", f"db_token={HIDDEN}"]),
        (["--secret", "--verbose"], ["--secret", "--verbose"]),
        (["--verbose", "password"], ["--verbose", "password"]),
        (["--token", "-x"], ["--token", HIDDEN]),
        (["--password=x", "in.csv"], [f"--password={HIDDEN}", "in.csv"]),
        (["--key", "id"], ["--key", "id"]),
        ({"password": 12345678, "n": 1}, {"password": HIDDEN, "n": 1}),
        ({"db": {"password": "x"}}, {"db": {"password": HIDDEN}}),
        ({"tokens": ["a", "b"]}, {"tokens": HIDDEN}),
        ({"use_token": True, "token": None, "password": ""}, {"use_token": True, "token": None, "password": ""}),
        ({"credentials": "secretsmanager:prod/x"}, {"credentials": "secretsmanager:prod/x"}),
        ("postgresql://u:p@h/x", f"postgresql://u:{HIDDEN}@h/x"),
        ("jdbc:x://h?a=1&password=p&b=2", f"jdbc:x://h?a=1&password={HIDDEN}&b=2"),
        ('.option("password", "p q").load()', f'.option("password", "{HIDDEN}").load()'),
        ("['psql', '--password', 'p']", f"['psql', '--password', '{HIDDEN}']"),
        ('{"api_key": "p", "n": 1}', f'{{"api_key": "{HIDDEN}", "n": 1}}'),
        ('"{\\"token\\": \\"p\\", \\"n\\": 1}"', f'"{{\\"token\\": \\"{HIDDEN}\\", \\"n\\": 1}}"'),
        ("a=b, password=p; token = 'q'", f"a=b, password={HIDDEN}; token = '{HIDDEN}'"),
        ("x=password=p", f"x=password={HIDDEN}"),
        ('password authentication failed for user "x"', 'password authentication failed for user "x"'),
        ("unexpected token: end of line", "unexpected token: end of line"),
        ("s3://bucket/a:b@c/part.csv", "s3://bucket/a:b@c/part.csv"),
        ("key=1/partition_key=2/part.csv", "key=1/partition_key=2/part.csv"),
        (7, 7),
        (None, None),
    ],
)
def test_documents_command_lines_and_texts_are_redacted(given: Any, shown: Any) -> None:
    assert redacted(given) == shown
    assert redacted(shown) == shown, "once more changes nothing"


def test_values_are_hidden_in_texts_longest_first() -> None:
    found: set[str] = set()
    redacted({"password": "secret-1", "a": {"token": "secret-1-and-2"}, "pass": "in"}, found)
    assert hidden("in secret-1-and-2, secret-1", found) == f"in {HIDDEN}, {HIDDEN}"
