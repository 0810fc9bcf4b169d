"""Metrics in the code, on the dashboard and in the alarms: the same names, read both ways."""

import ast
import json
import re
from collections import defaultdict

from sparklet.ports import metrics
from sparklet.ports.metrics import Emitter, Metric
from tests.unit.template.reading import MAIN, ROOT, of_type, properties
from tests.unit.test_metrics import METRICS

RUNTIME = ROOT / "runtime/sparklet"
NAMESPACE = {"Fn::Sub": "Sparklet/${AWS::StackName}"}
OF_AWS = {  # what the dashboard and the alarms show of AWS's own
    *("Errors", "Throttles", "Invocations", "ConcurrentExecutions", "Duration"),
    *("ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"),
    *("NumberOfMessagesSent", "NumberOfMessagesReceived", "IncomingBytes"),
    *("ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits"),
}
ALARMS = of_type(MAIN, "AWS::CloudWatch::Alarm")
OWN_ALARMS = {name: alarm for name, alarm in ALARMS.items() if alarm["Namespace"] == NAMESPACE}
WHERE = {Emitter.WORKER: ("worker",), Emitter.CHECKER: ("runs",), Emitter.DLQ_CONSUMER: ("runs",)}


def shown() -> dict[str, dict[str, set[str]]]:
    """The statistics that the dashboard shows, by namespace and metric."""
    text = properties(MAIN, "Dashboard")["DashboardBody"]["Fn::Sub"]
    known = {"AWS::StackName", "AWS::Region", *MAIN["Parameters"]}
    for name in re.findall(r"\$\{([^}]+)\}", text):
        assert name in known or name.partition(".")[0] in MAIN["Resources"], name
    body = json.loads(re.sub(r"\$\{([^}]+)\}", "1", text))
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for widget in body["widgets"]:
        usual = widget["properties"]["stat"]
        for entry in widget["properties"]["metrics"]:
            options = entry[-1] if isinstance(entry[-1], dict) else {}
            if isinstance(entry[0], str):
                found[entry[0]][entry[1]].add(options.get("stat", usual))
    return found


def test_the_dashboard_shows_exactly_the_codes_metrics() -> None:
    found = shown()
    own = found["Sparklet/1"]

    assert own.keys() == METRICS.keys()
    assert {name: metric.statistic for name, metric in METRICS.items() if metric.statistic not in own[name]} == {}
    of_aws = {name for namespace, names in found.items() if namespace.startswith("AWS/") for name in names}
    assert of_aws <= OF_AWS and set(found) - {"Sparklet/1"} == {"AWS/SQS", "AWS/Lambda", "AWS/DynamoDB", "AWS/Logs"}


def test_alarms_watch_written_metrics_by_their_own_statistic() -> None:
    watched = {name: (alarm["MetricName"], alarm["Statistic"]) for name, alarm in OWN_ALARMS.items()}

    assert watched == {
        "ShardsFailAlarm": ("ShardsFailed", "Sum"),
        "RunsFailAlarm": ("RunsFailed", "Sum"),
        "KeptDeadLettersAlarm": ("DeadLettersKept", "Sum"),
        "UnrunDeadLettersAlarm": ("DeadLettersResent", "Sum"),
        "CheckerSilentAlarm": ("RunsOpen", "SampleCount"),
        "ShardsWaitAlarm": ("OldestOpenShardSeconds", "Maximum"),
    }
    for name, (metric, statistic) in watched.items():
        assert statistic in (METRICS[metric].statistic, "SampleCount"), name
        assert "Dimensions" not in OWN_ALARMS[name]  # metrics have none


def test_a_silent_checker_raises_an_alarm() -> None:
    silent = ALARMS["CheckerSilentAlarm"]

    assert silent["TreatMissingData"] == "breaching"
    assert (silent["ComparisonOperator"], silent["Threshold"]) == ("LessThanThreshold", 1)


def test_alarms_on_metrics_of_aws_name_existing_metrics() -> None:
    for name, alarm in ALARMS.items():
        if isinstance(alarm["Namespace"], str) and alarm["Namespace"] in ("AWS/SQS", "AWS/Lambda"):
            assert alarm["MetricName"] in OF_AWS, name
            assert alarm["Dimensions"], name


def test_functions_write_to_the_namespace_of_the_alarms() -> None:
    assert MAIN["Globals"]["Function"]["Environment"]["Variables"]["SPARKLET_METRICS_NAMESPACE"] == NAMESPACE


def test_every_metric_is_written_by_its_declared_functions() -> None:
    written: dict[str, set[str]] = defaultdict(set)
    for path in RUNTIME.rglob("*.py"):
        if path.name != "metrics.py":
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.ImportFrom) and node.module == "sparklet.ports.metrics":
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "metrics":
                    names = [node.attr]
                for name in names:
                    written[name].add(path.relative_to(RUNTIME).parts[0])

    for name, metric in vars(metrics).items():
        if isinstance(metric, Metric):
            assert written[name] == {folder for emitter in metric.emitters for folder in WHERE[emitter]}, name
