"""The lock file of a table is written with the encryption that the stack requires."""

import pytest

from sparklet.connectors.tables.lease import file_at
from tests.stand_ins.http_server import QuietHandler, serving

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1"
NAME = "x-amz-server-side-encryption"


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ("", {}),
        ("AES256", {NAME: "AES256"}),
        (KEY, {NAME: "aws:kms", f"{NAME}-aws-kms-key-id": KEY, f"{NAME}-bucket-key-enabled": "true"}),
    ],
)
def test_a_lease_asks_for_the_encryption_of_its_file(
    monkeypatch: pytest.MonkeyPatch, given: str, headers: dict[str, str]
) -> None:
    sent: list[dict[str, str]] = []

    class Bucket(QuietHandler):
        """It takes what it is given."""

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            sent.append({name: value for name, value in self.headers.items() if NAME in name})
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    monkeypatch.setenv("SPARKLET_WRITE_ENCRYPTION", given)
    with serving(Bucket) as address:
        place = {"AWS_ENDPOINT_URL": address, "AWS_ENDPOINT_URL_S3": address, "AWS_REGION": "eu-west-1"}
        for name, value in {**place, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
            monkeypatch.setenv(name, value)
        assert file_at("s3://lake/t/_lease").replace("", b"{}") == '"1"'

    assert sent == [headers]
