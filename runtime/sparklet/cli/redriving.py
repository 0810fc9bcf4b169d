"""Which shards a redrive means, and whether the workers are as it wants them."""

import shlex
from dataclasses import replace

from sparklet.cli.console import Screen
from sparklet.cli.environment import Choice, Environment
from sparklet.errors import PlanError
from sparklet.fanout.checking.redrive import failed_with
from sparklet.fanout.deployment import Deployment

TIMEOUTS_S = (60, 120, 180, 300, 600, 900)  # that the template's queue has a visibility for


def selected(at: Deployment, run_id: str, numbers: tuple[int, ...], cause: str) -> tuple[int, ...]:
    """The shards that both options mean; none: all that failed."""
    return failed_with(at, run_id, cause, numbers or None) if cause else numbers


def make_room(choice: Choice, screen: Screen) -> Choice:
    """End a kept local stack of another size that nobody uses, so that it is started anew with the wanted one."""
    from sparklet.local.stack import end_if_unused, running

    info = None if choice.stack else running(choice.state)
    if info is None or (choice.memory_mb in (None, info.memory_mb) and choice.timeout_s in (None, info.timeout_s)):
        return choice
    same = replace(
        choice,
        workers=info.workers,
        memory_mb=choice.memory_mb or info.memory_mb,
        timeout_s=choice.timeout_s or info.timeout_s,
    )
    if not end_if_unused(choice.state, screen.say):
        return same
    screen.say(f"the local stack is started anew with {same.memory_mb} MB and {same.timeout_s} s a worker")
    return replace(same, keep=True)


def refuse_other_size(env: Environment, memory_mb: int | None, timeout_s: int | None) -> None:
    """PlanError with the remedy if the workers have not the size that was asked for.

    The local stack is deployed with it, unless others use it; a deployed one is not changed from here: that
    takes whoever may change its functions, and every run on it would feel it.
    """
    wrong = {
        "memory": (memory_mb, env.size.memory_mb, "FunctionMemoryMB"),
        "timeout": (timeout_s, env.size.timeout_s, "FunctionTimeoutS"),
    }
    changes = {name: (wanted, key) for name, (wanted, has, key) in wrong.items() if wanted not in (None, has)}
    if not changes:
        return
    asked = " and ".join(f"--{name} {wanted}" for name, (wanted, _) in changes.items())
    if env.local:
        raise PlanError(
            f"{asked} cannot be had: another sparklet uses the local stack as it is "
            f"({env.size.memory_mb} MB, {env.size.timeout_s} s); wait for its end, or end it: sparklet stop"
        )
    if timeout_s is not None and timeout_s not in TIMEOUTS_S:
        raise PlanError(f"--timeout {timeout_s} must be one of {', '.join(map(str, TIMEOUTS_S))} on a deployed stack")
    parameters = {**env.parameters, **{key: str(wanted) for wanted, key in changes.values()}}
    without = " and ".join(f"--{name}" for name in changes)
    raise PlanError(
        f"{asked}: the workers of {env.stack} have {env.size.memory_mb} MB and {env.size.timeout_s} s, and a redrive "
        f"does not change a deployed stack. Change it, then redrive without {without}:\n"
        f"{_update_command(env, parameters, {key for _, key in changes.values()})}"
    )


def _update_command(env: Environment, parameters: dict[str, str], changed: set[str]) -> str:
    """The one command that changes these parameters and no other, and waits for it."""
    given = [
        f"ParameterKey={key},ParameterValue={value}" if key in changed else f"ParameterKey={key},UsePreviousValue=true"
        for key, value in sorted(parameters.items())
    ]
    update = ["aws", "cloudformation", "update-stack", "--stack-name", env.stack, "--use-previous-template"]
    capabilities = ["--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    wait = ["aws", "cloudformation", "wait", "stack-update-complete", "--stack-name", env.stack]
    return f"{shlex.join([*update, *capabilities, '--parameters', *given])} && {shlex.join(wait)}"
