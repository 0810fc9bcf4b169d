import zipfile
from pathlib import Path

import pytest

from sparklet.errors import ScriptError
from sparklet.spark.script import JVM_OPTIONS, Script
from sparklet.spark.script_options import ScriptOptions, bundled, script_options

JARS = (
    *("/spark/jars/core-1.1.2.jar", "/spark/jars/guava-14.0.1.jar", "/spark/jars/spark-sql_2.12-3.5.9.jar"),
    *("/jars/hadoop-aws-3.3.4.jar", "/jars/aws-java-sdk-core-1.12.797.jar", "/jars/delta-spark_2.12-3.3.3.jar"),
    *("/jars/iceberg-spark-runtime-3.5_2.12-1.12.0.jar", "/jars/hudi-spark3.5-bundle_2.12-1.2.0.jar"),
    *("/jars/deequ-2.1.0-spark-3.5.jar", "/jars/postgresql-42.7.14.jar"),
)


JVMS_OWN = {
    "spark.driver.memory": "3g",
    "spark.driver.extraJavaOptions": "-Da='b c' -Dd=e",
    "spark.driver.extraLibraryPath": "/opt/lib",
    "spark.driver.extraClassPath": "/opt/a.jar",
}
PACKAGES, OTHER_DELTA = "spark.jars.packages", "io.delta:delta-spark_2.12:3.3.1"
READ: dict[str, tuple[str, bool, dict[str, str]]] = {  # the source, whether it needs a JVM of its own, its options
    "no options": ("print('hello')\n", False, {}),
    "a runner": ("import sys\n# sparklet: runner=submit\n", True, {}),
    "a runner with spaces": ("#sparklet:runner = submit", True, {}),
    "the warm runner": ("# sparklet: runner=warm\n", False, {}),
    "options of a JVM": ("".join(f"# sparklet: {name}={value}\n" for name, value in JVMS_OWN.items()), True, JVMS_OWN),
    "another option": ("# sparklet: spark.sql.shuffle.partitions=8\n", False, {"spark.sql.shuffle.partitions": "8"}),
    "a computed option": ("b.config('spark.jars.packages', f'a:b:{version}')", True, {}),
    "a comment wins": (
        "# sparklet: spark.jars=/a.jar\nb.config('spark.jars', '/b.jar')",
        True,
        {"spark.jars": "/a.jar"},
    ),
    "a comment insists on the warm JVM": (
        "# sparklet: runner=warm\nb.config('spark.jars.packages', 'a:b:1')",
        False,
        {},
    ),
    "a comment asks for another version": (f"# sparklet: {PACKAGES}={OTHER_DELTA}", True, {PACKAGES: OTHER_DELTA}),
    "it does not compile": ("b.config('spark.jars', 'x'", False, {}),  # the script fails by itself
    "no effect under spark-submit either": ("b.config('spark.driver.memory', '64g')", False, {}),
    "a printed name": ("print('spark.jars.packages')", False, {}),
    "another comment": ("# spark.jars.packages is not needed\n", False, {}),
    "an option that is only read": ("conf.get('spark.jars', '')", False, {}),
    "an option of a session": ("b.config('spark.sql.shuffle.partitions', '8')", False, {}),
    "a text": ("'''b.config('spark.jars', 'x')'''", False, {}),
}


@pytest.mark.parametrize("case", READ)
def test_comments_and_code_choose_runner_and_options(case: str) -> None:
    source, submit, conf = READ[case]

    assert script_options(Script(source.encode()), lambda: JARS) == ScriptOptions(submit=submit, conf=conf)


@pytest.mark.parametrize("option", sorted(JVM_OPTIONS))
@pytest.mark.parametrize(
    "code",
    [
        "SparkSession.builder.config('{0}', 'x').getOrCreate()",
        "SparkConf().set('{0}', 'x')",
        "conf.setIfMissing('{0}', 'x')",
        "SparkConf().setAll([('{0}', 'x')])",
        "SparkSession.builder.config(map={{'{0}': 'x'}})",
        "OPTIONS = {{'{0}': 'x'}}",
    ],
)
def test_an_option_in_the_code_that_needs_a_new_jvm_is_found(option: str, code: str) -> None:
    options = script_options(Script(code.format(option).replace("'x'", "'a:b:1'").encode()))

    assert options.submit
    assert options.conf == {option: "a:b:1"}


@pytest.mark.parametrize(
    ("name", "jar"),
    [
        # as in the samples of spark-on-aws-lambda
        ("deequ-2.0.3-spark-3.3.jar", "deequ-2.1.0-spark-3.5.jar"),
        ("io.delta:delta-core_2.12-2.2.0.jar", "delta-spark_2.12-3.3.3.jar"),
        ("org.apache.iceberg", "iceberg-spark-runtime-3.5_2.12-1.12.0.jar"),
        # coordinates of other lines of Scala and Spark
        ("io.delta:delta-core_2.12:2.2.0", "delta-spark_2.12-3.3.3.jar"),
        ("io.delta:delta-spark_2.13:4.0.0", "delta-spark_2.12-3.3.3.jar"),
        ("org.apache.hudi:hudi-spark3-bundle_2.12:0.12.2", "hudi-spark3.5-bundle_2.12-1.2.0.jar"),
        ("org.apache.iceberg:iceberg-spark-runtime-3.3_2.12:1.3.0", "iceberg-spark-runtime-3.5_2.12-1.12.0.jar"),
        ("org.apache.hadoop/hadoop-aws/3.2.0", "hadoop-aws-3.3.4.jar"),
        ("com.amazonaws:aws-java-sdk-bundle:1.12.262", "aws-java-sdk-core-1.12.797.jar"),
        ("com.amazon.deequ:deequ:2.0.1-spark-3.2", "deequ-2.1.0-spark-3.5.jar"),
        ("com.google.guava:guava:31.1-jre", "guava-14.0.1.jar"),
        # groups, artifacts, files
        ("org.postgresql", "postgresql-42.7.14.jar"),
        ("hudi-spark-bundle", "hudi-spark3.5-bundle_2.12-1.2.0.jar"),
        ("s3://bucket/jars/deequ-2.0.7-spark-3.3.jar", "deequ-2.1.0-spark-3.5.jar"),
        ("deequ.jar", "deequ-2.1.0-spark-3.5.jar"),
        # jars that are not bundled
        ("org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.0", ""),
        ("org.apache.iceberg:iceberg-aws-bundle:1.5.0", ""),
        ("net.snowflake", ""),
        ("snowflake-jdbc-3.13.33.jar", ""),
        ("com.acme:core:1.0", ""),  # another artifact named core
        ("/mine/my-lib.jar", ""),
    ],
)
def test_a_bundled_jar_is_found_by_any_of_its_names(name: str, jar: str) -> None:
    assert bundled(name, JARS) == jar


@pytest.mark.parametrize("artifact", ["delta-core_2.12:2.2.0", "delta-spark_2.12:3.3.3", "delta-spark_4.0_2.13:4.3.1"])
def test_a_bundled_jar_is_found_by_names_of_other_spark_versions(artifact: str) -> None:
    jars = ("/spark/jars/spark-sql_2.13-4.1.4.jar", "/jars/delta-spark_4.1_2.13-4.4.0.jar")

    assert bundled(f"io.delta:{artifact}", jars) == "delta-spark_4.1_2.13-4.4.0.jar"


@pytest.mark.parametrize("option", ["spark.jars", "spark.jars.packages"])
def test_an_option_for_bundled_jars_needs_no_new_jvm(option: str) -> None:
    source = f"import os\nb.config('{option}', 'org.apache.iceberg, deequ-2.0.3-spark-3.3.jar')"

    options = script_options(Script(source.encode()), lambda: JARS)

    assert (options.submit, options.conf) == (False, {})
    for name, warning in zip(("org.apache.iceberg", "deequ-2.0.3-spark-3.3.jar"), options.warnings, strict=True):
        assert "line 2" in warning and name in warning
        assert bundled(name, JARS) in warning


def test_only_missing_jars_are_fetched() -> None:
    source = "b.config('spark.jars.packages', 'io.delta:delta-core_2.12:2.2.0,com.acme:thing:1.0')"

    options = script_options(Script(source.encode()), lambda: JARS)

    assert (options.submit, options.conf) == (True, {"spark.jars.packages": "com.acme:thing:1.0"})
    assert len(options.warnings) == 1


@pytest.mark.parametrize(
    "name", ["snowflake-jdbc-3.13.33.jar", "com.acme", "com.acme:thing", "thing", "a:b:c:d", "a:b:", "s3://b/x.jar"]
)
def test_a_package_that_is_no_coordinate_is_refused(name: str) -> None:
    with pytest.raises(ScriptError, match=r"line 2 of the script: spark.jars.packages names .*group:artifact:version"):
        script_options(Script(f"import os\nb.config('spark.jars.packages', 'a:b:1,{name}')".encode()), lambda: JARS)


def test_warnings_are_written_to_the_tasks_output() -> None:
    lines: list[tuple[str, bytes]] = []

    ScriptOptions(warnings=("a is b",)).warn(lambda stream, line: lines.append((stream, line)))

    assert lines == [("stderr", b"sparklet: a is b\n")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n# sparklet: runer=submit\n", "line 2 of the script: '# sparklet: runer=submit'"),
        ("# sparklet: runner=fast\n", "event=yes, event=no, unpack=yes, unpack=no, spark=4"),
        ("# sparklet: spark.jars\n", "line 1"),
        ("# sparklet: runner=warm\n# sparklet: spark.driver.memory=8g\n", "spark.driver.memory, which needs submit"),
    ],
)
def test_a_comment_that_cannot_be_followed_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message.replace("(", r"\(")):
        script_options(Script(text.encode()))


def test_a_comment_refuses_another_spark() -> None:
    def options(line: str) -> ScriptOptions:
        script = Script(f"# sparklet: spark={line}".encode())
        return script_options(script, lambda: ["/spark/jars/spark-core_2.12-3.5.9.jar"])

    assert options("3") == options("3.5") == ScriptOptions()
    for line in ("4", "3.4"):
        with pytest.raises(ScriptError, match=r"3\.5\.9"):
            options(line)


EVENT_OPTIONS = {
    "print('hello')": "--event",
    "from sparklet.job import Job\njob = Job.from_args()": "--event",
    "import sys\nspark.read.csv(sys.argv[1])": "",
    "from sys import argv": "",
    "import argparse\nparser.parse_args()": "",
    "args = getResolvedOptions(sys.argv, ['JOB_NAME'])": "",
    "import click\n@click.option('--day')": "",
    "import argparse\nparser.add_argument('--event')": "--event",
    "import argparse  # sparklet invoke job.py --event event.json": "",
    '"""job.py --event X"""\nimport argparse': "",
    "import getopt\ngetopt.getopt(sys.argv[1:], '', ['event='])": "--event",
    '"""Usage: job.py [--event=<json>]"""\nimport docopt': "--event",
    "import argparse\ndef (": "",
    "parser.add_argument('--event', type=str)  # argparse": "--event",
    "import argparse\nparser.add_argument('--event-date')": "",
    "import argparse\n# sparklet: event=yes": "--event",
    "# sparklet: event=no\nprint('hello')": "",
    "import argparse\nparser.add_argument('--event-file')": "--event-file",
    "import sys, getopt\ngetopt.getopt(sys.argv[1:], '', ['event-file='])": "--event-file",
    "import argparse\nparser.add_argument('--event')\nparser.add_argument('--event-file')": "--event",
    '"""Usage: job.py [--event-file=<path>]"""\nimport docopt': "--event-file",
}


@pytest.mark.parametrize("source", EVENT_OPTIONS)
def test_a_script_that_reads_other_arguments_is_given_no_event(source: str) -> None:
    assert (script := Script(source.encode())).event_option == EVENT_OPTIONS[source]
    assert not script_options(script).conf


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbfimport sys\nprint(sys.argv, '--event')",  # a byte order mark, as editors on Windows write it
        b"# coding: cp1252\nimport sys\nprint(sys.argv, '--event \x80')  # \x80\nprint('--event')",
        b"import sys\rprint(sys.argv, '--event')",
    ],
)
def test_a_script_is_decoded_as_python_does_it(body: bytes) -> None:
    assert not Script(body).syntax_error("job.py")
    assert Script(body).event_option == "--event"
    assert Script(body + b"\n# sparklet: runner=submit").comments == {"runner": "submit"}


def test_comments_are_read_even_if_the_script_cannot_be_decoded() -> None:
    for cookie in (b"none-such", b"hex", b"utf-8"):
        assert Script(b"# coding: " + cookie + b"\n# sparklet: event=no\n\xff").comments == {"event": "no"}


def test_py_files_that_read_arguments_count_too(tmp_path: Path) -> None:
    def library(name: str, text: str, member: str = "lib/cli.py") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, text)
        return tmp_path / name

    (script := tmp_path / "job.py").write_text("import lib.cli\nlib.cli.main()\n")
    (plain := tmp_path / "args.py").write_text("import argparse")
    reads, named = library("a.zip", "import argparse"), library("b.whl", "import click\nclick.option('--event')")
    own = library("job.zip", "import argparse", "sparklet/job/arguments.py")

    assert [
        Script(script.read_bytes(), files).event_option for files in ((), (own,), (reads,), (plain,), (plain, named))
    ] == [*("--event", "--event", "", "", "--event")]
    script.write_text("import sys\nprint(sys.argv)\n")
    assert [Script(script.read_bytes(), files).event_option for files in ((), (named,))] == ["", "--event"]
