import json
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyspark
import pytest

import sparklet
from sparklet.engines.one_shard import shares_disk
from sparklet.errors import SettingsError
from sparklet.model import LIBRARIES, MODULES
from sparklet.settings import OF_SCRIPTS, SparkSettings, spark_settings, worker_settings
from sparklet.spark.java_classes import mark
from sparklet.spark.runner import Deadline, ScriptCall
from sparklet.spark.script import Script
from sparklet.spark.spark_options import (
    AWSGLUE,
    TASK_S3A,
    class_path,
    core_count,
    encryption_conf,
    heap_mb,
    is_local,
    java_command,
    java_path,
    process_env,
    python_path,
    s3a_conf,
    spark_defaults,
    spark_home,
    task_conf,
    task_env,
)
from sparklet.spark.spark_submit import SubmitRunner
from sparklet.spark.warm_runner import WarmRunner, runner_for


def settings(**env: str) -> SparkSettings:
    return spark_settings(env)


def jars_in(folder: Path, *names: str) -> list[Path]:
    """Create empty files of these names."""
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def test_our_committer_is_used_only_with_our_jar() -> None:
    without, ours = s3a_conf(settings(), ["/jars/hadoop-aws-3.3.4.jar"]), s3a_conf(settings(), [f"/x/{mark()}.jar"])

    assert "spark.sql.sources.commitProtocolClass" not in without
    assert ours["spark.sql.sources.commitProtocolClass"] == "AttemptCommit"
    assert {ours[f"spark.hadoop.fs.{scheme}.impl"] for scheme in ("s3", "s3a", "s3n")} == {TASK_S3A}


def test_only_an_attempts_staging_folder_is_written_directly() -> None:
    def conf(output: str) -> dict[str, str]:
        return task_conf(
            ScriptCall(Path("j.py"), Script(b""), (), Path("/t"), Deadline.within(1), output=output), {}, settings()
        )

    assert conf("s3://b/staged/run-1/000007-ab")["spark.hadoop.sparklet.attempt"] == "/run-1/000007-ab"
    assert "spark.hadoop.sparklet.attempt" not in conf("")


def test_a_clusters_driver_is_reached_and_tries_tasks_again(tmp_path: Path) -> None:
    jar, own = jars_in(tmp_path, "a.jar", f"{mark()}.jar")
    call = ScriptCall(Path("j.py"), Script(b""), (), tmp_path, Deadline.within(1))
    spark = settings(SPARKLET_JARS=f"{jar}{os.pathsep}{own}")
    cluster = replace(spark, conf={"spark.master": "spark://127.0.0.1:7077"})

    conf = spark_defaults(cluster, tmp_path, [str(jar), str(own)])

    assert (conf["spark.master"], conf["spark.driver.host"]) == ("spark://127.0.0.1:7077", "127.0.0.1")
    assert conf["spark.executor.extraClassPath"] == f"{jar}{os.pathsep}{own}"
    assert "AttemptCommit" in spark_defaults(spark, tmp_path, [str(own)]).values()
    assert "AttemptCommit" not in conf.values()  # the files of a repeated task must not remain
    assert "spark.network.timeout" not in conf  # a cluster is not frozen, so a lost executor must be noticed
    assert "spark.local.dir" not in task_conf(call, {}, cluster)
    assert isinstance(runner_for(worker_settings({}), cluster), SubmitRunner)
    assert (shares_disk(cluster), is_local(cluster), is_local(spark)) == (True, False, True)
    assert not shares_disk(replace(spark, conf={"spark.remote": "sc://10.0.0.7:15002"}))


def test_an_invalid_address_of_a_cluster_is_refused() -> None:
    for wrong in ("yarn", "spark://", "spark://127.0.0.1:port"):
        with pytest.raises(SettingsError, match="spark://HOST:PORT"):
            spark_defaults(replace(settings(), conf={"spark.master": wrong}), Path("/t"))


def test_settings_are_read_from_the_environment() -> None:
    read = settings(
        SPARKLET_JARS=f"/a.jar{os.pathsep}{os.pathsep}/b",
        SPARKLET_JAVA_OPTIONS="-Da='b c'  -Dd=e",
        SPARKLET_SPARK_CONF='{"spark.sql.shuffle.partitions": "3"}',
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE="3008",
        AWS_ENDPOINT_URL="http://127.0.0.1:1",
        AWS_ENDPOINT_URL_S3="http://127.0.0.1:2",
        AWS_DEFAULT_REGION="eu-west-1",
    )

    assert read.jars == (Path("/a.jar"), Path("/b"))
    assert read.java_options == ("-Da=b c", "-Dd=e")
    assert read.conf == {"spark.sql.shuffle.partitions": "3"}
    assert (read.memory_mb, read.s3_endpoint, read.region) == (3008, "http://127.0.0.1:2", "eu-west-1")
    ignored = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert settings(**ignored).s3_endpoint == ""  # as in AWS's tools


@pytest.mark.parametrize(
    ("memory_mb", "cpus", "heap", "cores"),
    [
        *((512, 2, 512, 1), (1024, 2, 512, 1), (1769, 2, 1149, 1), (2048, 2, 1331, 1), (3008, 2, 1955, 2)),
        *((3538, 2, 2299, 2), (10240, 6, 6656, 6), (10240, 4, 6656, 4)),  # never more cores than the machine has
    ],
)
def test_heap_and_cores_follow_the_memory(memory_mb: int, cpus: int, heap: int, cores: int) -> None:
    here = settings(AWS_LAMBDA_FUNCTION_MEMORY_SIZE=str(memory_mb))

    assert (heap_mb(here), core_count(here, cpus=cpus)) == (heap, cores)


def test_the_operator_can_set_heap_and_cores() -> None:
    own = settings(SPARKLET_HEAP_MB="700", SPARKLET_CORES="5", AWS_LAMBDA_FUNCTION_MEMORY_SIZE="10240")

    assert (heap_mb(own), core_count(own, cpus=2)) == (700, 5)


def launcher(folder: Path) -> str:
    """Create an executable file named java. Return its path."""
    folder.mkdir(exist_ok=True)
    (java := folder / "java").touch(0o755)
    return str(java)


def test_java_of_java_home_is_used_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{tmp_path}/bin/java cannot be run; set JAVA_HOME"):
        java_path(settings(JAVA_HOME=str(tmp_path)))

    java = launcher(tmp_path / "bin")
    assert java_path(settings(JAVA_HOME=str(tmp_path))) == java


def test_without_java_home_the_java_on_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = launcher(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert java_path(settings()) == java


@pytest.fixture
def spark(tmp_path: Path) -> Path:
    """A Spark folder with a few empty jars."""
    home = tmp_path / "spark"
    (home / "jars").mkdir(parents=True)
    jars_in(home / "jars", "spark-core_2.12-3.5.9.jar", "jackson-core-2.15.2.jar", "log4j-1.2-api-2.20.0.jar")
    jars_in(home / "jars", "netty-epoll-4.1.96.Final-linux-x86_64.jar", "netty-epoll-4.1.96.Final.jar")
    return home


def class_path_names(spark: Path, *extra: Path) -> list[str]:
    """The names of the jars on the class path, with these jars and folders in SPARKLET_JARS."""
    jars = class_path(settings(SPARK_HOME=str(spark), SPARKLET_JARS=os.pathsep.join(map(str, extra))))
    return [Path(jar).name for jar in jars]


def test_extra_jars_follow_the_sorted_class_path_in_order(spark: Path, tmp_path: Path) -> None:
    own = sorted(path.name for path in (spark / "jars").iterdir())

    assert class_path_names(spark, *jars_in(tmp_path, "z.jar", "a.jar")) == [*own, "z.jar", "a.jar"]


def test_a_folder_stands_for_its_jars_or_those_that_order_lists(spark: Path, tmp_path: Path) -> None:
    own, extra = class_path_names(spark), tmp_path / "extra"
    extra.mkdir()
    jars_in(extra, "b.jar", "c.jar", "a.jar", "a.txt")
    assert class_path_names(spark, extra) == [*own, "a.jar", "b.jar", "c.jar"]

    (extra / "ORDER").write_text("b.jar\na.jar\n")
    assert class_path_names(spark, extra) == [*own, "b.jar", "a.jar"]


def test_an_extra_jar_takes_the_place_of_the_same_artifact(spark: Path, tmp_path: Path) -> None:
    jars = class_path_names(spark, *jars_in(tmp_path, "jackson-core-2.17.0.jar", "netty-epoll-4.2.0.Final.jar"))

    assert "jackson-core-2.15.2.jar" not in jars
    assert "netty-epoll-4.1.96.Final.jar" not in jars
    assert "netty-epoll-4.1.96.Final-linux-x86_64.jar" in jars
    assert "log4j-1.2-api-2.20.0.jar" in jars


def test_a_setting_that_names_no_jars_is_refused(spark: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SPARKLET_JARS names /nowhere\.jar"):
        class_path_names(spark, Path("/nowhere.jar"))
    with pytest.raises(SettingsError, match="SPARK_HOME must name a Spark"):
        spark_home(settings(SPARK_HOME=str(tmp_path)))


def test_no_two_jars_of_spark_count_as_the_same_artifact() -> None:
    own = [str(jar) for jar in sorted((spark_home(settings()) / "jars").glob("*.jar"))]

    for jar in (jar for jar in own if "/jline-" not in jar):  # Spark 4.1 has two jline jars itself
        assert sorted(class_path(settings(SPARKLET_JARS=jar))) == own, jar


def plain_command(tmp: Path, *options: str, **env: str) -> list[str]:
    return java_command(settings(**env), ["a.jar"], tmp=tmp, properties={}, conf={}, options=options)


def test_the_command_starts_java_directly_with_all_options(tmp_path: Path) -> None:
    here = settings(SPARKLET_JAVA_OPTIONS="-Dmine=1", SPARKLET_HEAP_MB="700", SPARKLET_CORES="1")
    command = java_command(
        here, ["a.jar", "b.jar"], tmp=tmp_path, properties={"x": "y"}, conf={"spark.a": "b c"}, options=["-Dlast"]
    )

    assert command[0].endswith("java")
    assert "-Xmx700m" in command
    assert f"-Djava.io.tmpdir={tmp_path}" in command
    assert {"-XX:+ExitOnOutOfMemoryError", "-XX:+UseSerialGC", "-Dx=y", "-Dmine=1", "-Dlast"} < set(command)
    last = [f"a.jar{os.pathsep}b.jar", "org.apache.spark.deploy.SparkSubmit", "--conf", "spark.a=b c"]
    assert command[command.index("-cp") + 1 :] == last
    logging = next(part for part in command if part.startswith("-Dlog4j2.configurationFile="))
    assert Path(logging.partition("=")[2]).is_file()


def test_java_takes_the_scripts_own_options_last(tmp_path: Path) -> None:
    own = {"memory": "3g", "extraJavaOptions": "-Da='b c' -Dd=e", "extraLibraryPath": "/opt/lib"}
    given = {f"spark.driver.{name}": value for name, value in own.items()}
    command = java_command(settings(SPARKLET_HEAP_MB="700"), ["a.jar"], tmp_path, {}, {}, script_conf=given)

    assert [part for part in command if part.startswith("-Xmx")] == ["-Xmx3g"]
    assert command[: command.index("-cp")][-3:] == ["-Djava.library.path=/opt/lib", "-Da=b c", "-Dd=e"]


@pytest.mark.parametrize(
    ("memory_mb", "cores", "quick_alone"), [(1769, 1, True), (3008, 2, True), (3538, 2, False), (10240, 1, True)]
)
def test_the_quick_compiler_is_alone_below_two_whole_vcpus(
    memory_mb: int, cores: int, quick_alone: bool, tmp_path: Path
) -> None:
    command = plain_command(tmp_path, AWS_LAMBDA_FUNCTION_MEMORY_SIZE=str(memory_mb), SPARKLET_CORES=str(cores))

    assert ("-XX:TieredStopAtLevel=1" in command) is quick_alone


def test_the_class_archive_is_used_with_any_java_options(tmp_path: Path) -> None:
    archive = tmp_path / "a.jsa"
    here = {"SPARKLET_CDS_ARCHIVE": str(archive), "SPARKLET_JAVA_OPTIONS": "", "SPARKLET_CORES": "1"}

    for env in (here, {"SPARKLET_CORES": "1"}):
        plain = plain_command(tmp_path, **env)
        assert not [part for part in plain if "Shared" in part or "-Xshare" in part]

    archive.touch()
    command = plain_command(tmp_path, **here)
    assert {f"-XX:SharedArchiveFile={archive}", "-Xshare:auto"} < set(command[: command.index("-cp")])
    assert command.index("-XX:+UnlockDiagnosticVMOptions") < command.index("-XX:ArchiveRelocationMode=0")
    recorded = plain_command(tmp_path, "-XX:StartFlightRecording", **here)
    assert not [part for part in recorded if "Shared" in part]  # Java 17 crashes with a recording and an archive
    own = plain_command(tmp_path, **{**here, "SPARKLET_JAVA_OPTIONS": "-XX:ArchiveRelocationMode=1"})
    assert own.index("-XX:ArchiveRelocationMode=0") < own.index("-XX:ArchiveRelocationMode=1")  # the last one wins


def test_spark_stays_on_this_machine_and_survives_a_freeze() -> None:
    conf = spark_defaults(settings(SPARKLET_CORES="2"), Path("/scratch"))

    assert conf["spark.master"] == "local[2]"
    assert conf["spark.driver.host"] == conf["spark.driver.bindAddress"] == "127.0.0.1"
    assert conf["spark.ui.enabled"] == "false"
    assert conf["spark.network.timeout"] == "31536000s"
    assert conf["spark.sql.broadcastTimeout"] == "31536000"
    own = {"spark.master": "local[7]", "spark.network.timeout": "5s"}  # the operator's settings win
    assert spark_defaults(settings(SPARKLET_SPARK_CONF=json.dumps(own)), Path("/scratch")).items() >= own.items()


def test_every_s3_scheme_is_s3a_with_environment_credentials() -> None:
    conf = s3a_conf(settings(AWS_ACCESS_KEY_ID="AKIA", AWS_SECRET_ACCESS_KEY="secret", AWS_SESSION_TOKEN="token"))

    classes = {conf[f"spark.hadoop.fs.{scheme}.impl"] for scheme in ("s3", "s3n", "s3a")}
    assert classes == {"org.apache.hadoop.fs.s3a.S3AFileSystem"}
    assert conf["spark.hadoop.fs.s3a.aws.credentials.provider"].split(",") == [
        "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
        "com.amazonaws.auth.EnvironmentVariableCredentialsProvider",
        "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",  # this provider would sign without the token
        "com.amazonaws.auth.DefaultAWSCredentialsProviderChain",
    ]
    assert not {"AKIA", "secret", "token"} & set(conf.values())
    assert not [key for key in conf if "endpoint" in key]


def test_a_tasks_files_lie_in_its_own_folder() -> None:
    call = ScriptCall(
        Path("/s/job.py"), Script(b""), (), Path("/tmp/task-1"), Deadline(0, 0), {"OUTCOME": "/tmp/task-1/o"}
    )
    env = task_env(call, settings())
    conf = task_conf(call, env, settings())

    assert conf["spark.app.name"] == "job.py"
    for key in ("local.dir", "sql.warehouse.dir", "hadoop.hadoop.tmp.dir", "hadoop.fs.s3a.buffer.dir"):
        assert Path(conf[f"spark.{key}"]).is_relative_to("/tmp/task-1")
    assert env["TMPDIR"] == env["PWD"] == "/tmp/task-1"
    assert conf["spark.executorEnv.OUTCOME"] == "/tmp/task-1/o"


def test_processes_get_this_python_and_nothing_of_another_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    other = {"PYSPARK_PYTHON": "python2", "PYSPARK_GATEWAY_PORT": "1", "SPARK_LOCAL_DIRS": "/x", "KEPT": "1"}
    env = process_env(settings(), other)

    assert env["PYSPARK_PYTHON"] == env["PYSPARK_DRIVER_PYTHON"] == sys.executable
    assert env["KEPT"] == "1"
    assert not {"PYSPARK_GATEWAY_PORT", "SPARK_LOCAL_DIRS"} & set(env)
    assert env["PYTHONHASHSEED"] == "0"
    assert env["PYTHONPATH"].split(os.pathsep)[0] == "/mine"
    assert str(Path(sparklet.__file__).parents[1]) in env["PYTHONPATH"].split(os.pathsep)
    assert env["SPARK_VERSION"] == pyspark.__version__  # PyDeequ reads it


def test_glues_library_is_last_and_a_real_one_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_env(settings(), {})["PYTHONPATH"].split(os.pathsep)[-1] == AWSGLUE
    assert (Path(AWSGLUE) / "awsglue" / "__init__.py").is_file()

    with monkeypatch.context() as patch:
        patch.syspath_prepend(AWSGLUE)  # as if this process had run a Glue script
        assert process_env(settings(), {})["PYTHONPATH"].split(os.pathsep)[-1] == AWSGLUE

    (tmp_path / "awsglue").mkdir()
    (tmp_path / "awsglue" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "awsglue", raising=False)

    assert AWSGLUE not in process_env(settings(), {})["PYTHONPATH"].split(os.pathsep)


def test_a_spark_outside_site_packages_is_on_pythonpath(spark: Path) -> None:
    (spark / "python" / "lib").mkdir(parents=True)
    (py4j,) = jars_in(spark / "python" / "lib", "py4j-0.10.9.7-src.zip")
    env = process_env(settings(SPARK_HOME=str(spark)), {"SPARK_HOME": str(spark)})

    assert env["PYTHONPATH"].split(os.pathsep)[:2] == [str(spark / "python"), str(py4j)]
    assert env["SPARK_HOME"] == str(spark)


def test_the_installed_pyspark_is_not_imported_from_its_zip() -> None:
    home = spark_home(settings())

    assert "SPARK_HOME" not in process_env(settings(SPARK_HOME=str(home)), {"SPARK_HOME": str(home)})


def test_py_files_become_entries_of_pythons_path(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("m.py", "a.zip", "b.egg", "c-1.0-py3-none-any.whl", MODULES)]
    files[0].write_text("x = 1")
    (tmp_path / "secret.py").write_text("not to be importable")
    for file in files[1:]:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("package/data.txt", "data")

    path = python_path(files, tmp_path / "out")

    assert path[1:3] == [str(files[1]), str(files[2])]
    assert [entry.name for entry in Path(path[0]).iterdir()] == ["m.py"]
    assert [(Path(each) / "package" / "data.txt").read_text() for each in path[3:]] == ["data", "data"]


def test_libraries_and_compiled_modules_are_unpacked_once(tmp_path: Path) -> None:
    contents = {LIBRARIES: "pure/data.txt", "fast.zip": "fast/core.cpython-311-x86_64-linux-gnu.so"}
    for name, content in contents.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(content, "content")

    first, again = (python_path([tmp_path / name for name in contents], tmp_path / task) for task in "ab")

    assert first == again and not (tmp_path / "a").exists()
    assert [(Path(folder) / name).read_text() for folder, name in zip(first, contents.values(), strict=True)] == [
        "content",
        "content",
    ]


def test_the_settings_choose_the_runner(tmp_path: Path) -> None:
    warm = worker_settings({"SPARKLET_SCRATCH": str(tmp_path)})
    submit = worker_settings({"SPARKLET_SCRATCH": str(tmp_path), "SPARKLET_RUNNER": "submit"})

    assert isinstance(runner_for(warm, settings()), WarmRunner)
    assert isinstance(runner_for(submit, settings()), SubmitRunner)
    assert list(tmp_path.iterdir()) == []


def test_hadoop_gets_the_encryption_of_writes() -> None:
    key = "arn:aws:kms:eu-west-1:123456789012:key/1"
    plain, ours, theirs = (s3a_conf(settings(SPARKLET_WRITE_ENCRYPTION=given)) for given in ("", "AES256", key))

    def of(conf: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in conf.items() if "ncryption" in name}

    of_s3a, of_emrfs = "spark.hadoop.fs.s3a.encryption", "spark.hadoop.fs.s3"
    switched_on = {f"{of_emrfs}.enableServerSideEncryption": "true"}
    assert of(plain) == {}
    assert of(ours) == {f"{of_s3a}.algorithm": "AES256", **switched_on}
    kms = {f"{of_s3a}.algorithm": "SSE-KMS", f"{of_s3a}.key": key}
    assert of(theirs) == {**kms, **switched_on, f"{of_emrfs}.serverSideEncryption.kms.keyId": key}
    # Attached workers get these.
    assert encryption_conf(settings(SPARKLET_WRITE_ENCRYPTION=key)).items() <= theirs.items()
    assert OF_SCRIPTS.match("SPARKLET_WRITE_ENCRYPTION")  # workers of all engines get it
