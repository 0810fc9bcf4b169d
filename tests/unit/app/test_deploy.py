"""The template and the code that ``sparklet deploy`` hands to CloudFormation."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import sparklet
from sparklet.app.deploy import packaged_template, with_code, zipped_code
from tests.unit.template.reading import of_type

KEY = "sparklet/1.zip"


def test_functions_run_the_code_in_the_bucket() -> None:
    template = with_code(packaged_template(), "codes", KEY)

    functions = of_type(template, "AWS::Serverless::Function")
    images = {name for name, properties in functions.items() if properties.get("PackageType") == "Image"}
    code = [properties["CodeUri"] for name, properties in functions.items() if name not in images]
    assert images and code and all(place == {"Bucket": "codes", "Key": KEY} for place in code)
    assert not any("Metadata" in template["Resources"][name] for name in images)
    assert len(json.dumps(template)) < 1_000_000  # CloudFormation's limit for a template in S3


def test_the_code_has_all_that_the_functions_import(tmp_path: Path) -> None:
    body = zipped_code(Path(sparklet.__file__).parent)
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert not [name for name in archive.namelist() if "__pycache__" in name or not name.startswith("sparklet/")]
    archive.extractall(tmp_path)

    code = "import sparklet.runs.handlers as h; print(h.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == str(tmp_path / "sparklet" / "runs" / "handlers.py")
    assert zipped_code(Path(sparklet.__file__).parent) == body
