"""The requests that a script's process sends to a JVM through Py4J."""

from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
from py4j.java_gateway import JavaClass, JavaPackage, JVMView
from py4j.protocol import SUCCESS_CLASS, SUCCESS_PACKAGE, Py4JError

from sparklet.spark.jvm_calls import remember_names


@dataclass(eq=False)
class Java:
    """A fake Py4J client: a capitalized name is a class, a name in lower case is a package, others are errors."""

    asked: list[str] = field(default_factory=list)
    gateway_property: Any = field(default_factory=Mock)
    converters: tuple[()] = ()

    def send_command(self, command: str) -> str:
        name = command.split("\n")[2].removeprefix("r")
        self.asked.append(name)
        last = name.rpartition(".")[2]
        return SUCCESS_CLASS + name if last.istitle() else SUCCESS_PACKAGE if last.islower() else "!xo"


def test_py4j_asks_once_for_a_class_and_never_for_known_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (JavaPackage, JVMView):
        monkeypatch.setattr(owner, "__getattr__", owner.__getattr__)  # so that monkeypatch restores them
    remember_names()
    java, other = Java(), Java()

    def jvm(client: Any) -> Any:
        return JVMView(client, "jvm", "id")

    for client in (java, java, other):
        assert isinstance(jvm(client).java.lang.Thread, JavaClass)
        assert isinstance(jvm(client).org.apache.spark.util, JavaPackage)
    assert jvm(java).com.acme.Tool._fqn == "com.acme.Tool"
    with pytest.raises(Py4JError):
        getattr(jvm(java).java.lang, "noSuch")  # noqa: B009

    assert java.asked == ["java.lang.Thread", "com", "com.acme", "com.acme.Tool", "java.lang.noSuch"]
    assert other.asked == ["java.lang.Thread"]
