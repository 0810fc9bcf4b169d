import pytest

from sparklet.errors import ScriptError
from sparklet.spark.script_options import JVM_OPTIONS, ScriptOptions, script_options


def test_a_script_without_options_runs_anywhere() -> None:
    assert script_options("print('hello')\n") == ScriptOptions(submit=False, conf={})


def test_a_comment_chooses_the_runner() -> None:
    assert script_options("import sys\n# sparklet: runner=submit\n").submit
    assert script_options("#sparklet:runner = submit").submit
    assert not script_options("# sparklet: runner=warm\n").submit


def test_jvm_options_in_a_comment_need_a_jvm_of_their_own() -> None:
    options = script_options(
        "# sparklet: spark.driver.memory=3g\n"
        "# sparklet: spark.driver.extraJavaOptions=-Da='b c' -Dd=e\n"
        "# sparklet: spark.driver.extraLibraryPath=/opt/lib\n"
        "# sparklet: spark.driver.extraClassPath=/opt/a.jar\n"
    )

    assert options.submit
    assert options.conf == {
        "spark.driver.memory": "3g",
        "spark.driver.extraJavaOptions": "-Da='b c' -Dd=e",
        "spark.driver.extraLibraryPath": "/opt/lib",
        "spark.driver.extraClassPath": "/opt/a.jar",
    }


def test_other_options_in_a_comment_need_no_jvm_of_their_own() -> None:
    options = script_options("# sparklet: spark.sql.shuffle.partitions=8\n")

    assert not options.submit
    assert options.conf == {"spark.sql.shuffle.partitions": "8"}


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
def test_an_option_that_needs_a_new_jvm_is_seen_in_the_code(option: str, code: str) -> None:
    options = script_options(code.format(option))

    assert options.submit
    assert options.conf == {option: "x"}


def test_a_computed_option_still_needs_its_own_jvm() -> None:
    options = script_options("b.config('spark.jars.packages', f'a:b:{version}')")

    assert options == ScriptOptions(submit=True, conf={})


def test_a_comment_wins_over_the_code() -> None:
    options = script_options("# sparklet: spark.jars=/a.jar\nb.config('spark.jars', '/b.jar')")

    assert options.conf == {"spark.jars": "/a.jar"}


def test_a_script_that_insists_on_the_warm_jvm_gets_it() -> None:
    assert not script_options("# sparklet: runner=warm\nb.config('spark.jars.packages', 'a:b:1')").submit


@pytest.mark.parametrize(
    "code",
    [
        "b.config('spark.driver.memory', '64g')",  # has no effect under spark-submit either
        "print('spark.jars.packages')",
        "# spark.jars.packages is not needed\n",
        "conf.get('spark.jars', '')",
        "b.config('spark.sql.shuffle.partitions', '8')",
        "'''b.config('spark.jars', 'x')'''",
    ],
)
def test_look_alikes_of_options_change_nothing(code: str) -> None:
    assert not script_options(code).submit


def test_a_script_that_does_not_compile_fails_by_itself() -> None:
    assert script_options("b.config('spark.jars', 'x'") == ScriptOptions()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n# sparklet: runer=submit\n", "line 2 of the script: '# sparklet: runer=submit'"),
        ("# sparklet: runner=fast\n", "runner=submit, runner=warm or spark"),
        ("# sparklet: spark.jars\n", "line 1"),
        ("# sparklet: runner=warm\n# sparklet: spark.driver.memory=8g\n", "spark.driver.memory, which needs submit"),
    ],
)
def test_a_comment_that_cannot_be_followed_is_an_error(text: str, said: str) -> None:
    with pytest.raises(ScriptError, match=said.replace("(", r"\(")):
        script_options(text)
