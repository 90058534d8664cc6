"""One program on a target, and what is wrong with its outcome."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One program on a target. It passes if its exit code is 0 and its output is as it must be."""

    name: str
    program: str  # a test of crates/securememory/tests, `lib`, or `tool`
    arguments: tuple = ()
    environment: tuple = ()
    seconds: int = 60  # then it is killed
    says: tuple = ()  # regular expressions: each must be in the output
    never: tuple = ()  # none of these may be in it
    shows: str = r"^test result:|skipped"  # lines like this are shown even if all is well


TEST = ("--nocapture", "--test-threads=2")


def stress(hold, seconds, store="sealed"):
    """Threads in each other's way, under a watchdog."""
    arguments = ("stress", "--store", store, "--hold", hold, "--threads", "4", "--seconds", str(seconds), "--json")
    says = ('"ok":true', '"skipped":null')
    return Job(f"stress-{store}-{hold}", "tool", arguments, says=says, seconds=seconds + 60, shows="operations")


def instructions(op, most):
    """How many instructions an operation takes that cannot be had on most machines; more than `most` are too many."""
    arguments = ("bench", "instructions", "--only", op, "--at-most", str(most), "--functions")
    return Job("instructions", "tool", arguments, seconds=300, says=(rf"^{re.escape(op)} ",), shows=rf"^{re.escape(op)} ")


def doctor(*arguments):
    """Attacks on the library's secrets; the last line is the outcome."""
    says = (r"could be checked hold here|All promises hold here",)
    return Job("doctor", "tool", ("doctor", *arguments), seconds=1800, says=says, shows="checks:|not to be had here")


def judge(job, code, lines):
    """What is wrong with the outcome of a job: nothing, as a rule."""
    wrong = []
    if code != 0:
        wrong.append("it did not end" if code is None else f"exit code {code}")
    for pattern in job.says:
        if not any(re.search(pattern, line) for line in lines):
            wrong.append(f"nothing in the output is like {pattern!r}")
    for pattern in job.never:
        wrong += [f"in the output: {line.strip()}" for line in lines if re.search(pattern, line)]
    return wrong
