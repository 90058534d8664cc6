"""The library's test suite as jobs, and what a job's output says."""

import re
from dataclasses import dataclass, field

from jobs import TEST, Job, doctor

# Programs that run cargo themselves.
NEED_CARGO = ("handler_object", "second_copy")
# Tests that try many times, with fewer of them where instructions take ten times as long: program, what is set, in words.
REDUCED = {
    "model": ("SECUREMEMORY_MODEL_PROGRAMS", "200", "200 random programs a test in place of 1,000 to 5,000"),
    "shutdown": ("SECUREMEMORY_SHUTDOWN_ROUNDS", "5", "5 rounds in place of 50"),
    "widened": ("SECUREMEMORY_WIDENED_ENTERS", "50000", "50,000 entries in place of a million"),
    "stream": ("SECUREMEMORY_STREAM_MIB", "4", "4 MiB in place of 64"),
    "wrong_key": ("SECUREMEMORY_WRONG_KEY_CHILDREN", "200", "200 children in place of 2,000"),
}


# Tests by the seconds that a processor may take: program, part of the name, why they are left out on an emulated one.
TIMED = (("bounds", "ten_thousand", "must be done within seconds, which is too few for an emulated processor"),)
# Deadlines of tests, which are for a processor that is there, and how often storms are repeated, the divisor.
PATIENCE = (("SECUREMEMORY_PATIENCE", "4"), ("SECUREMEMORY_FEWER", "5"))


@dataclass(frozen=True)
class Pace:
    """How much of the suite a target gets, and how long it may take."""

    slow: bool = False  # smaller numbers, as instructions are emulated
    no_cargo: str = ""  # why programs that run cargo are left out
    seconds: int = 600  # for one test program
    longer: dict = field(default_factory=dict)  # programs that take longer
    without: dict = field(default_factory=dict)  # programs that are left out, and why
    skip: tuple = ()  # tests that are left out: program, part of the name, why


def jobs(target, programs, chosen=None):
    """The whole suite, or of the chosen programs the tests with such names (none: all).

    Also: what is left out, with the reason; what is reduced.
    """
    pace = target.pace
    left_out = dict(pace.without)
    if pace.no_cargo:
        left_out |= dict.fromkeys(NEED_CARGO, pace.no_cargo)
    result, reduced = [], ["storms: a fifth as often, and four times as long"] if pace.slow else []
    for name in sorted(set(programs) - {"tool"}, key=lambda name: (name != "lib", name)):
        if name in left_out or (chosen is not None and name not in chosen):
            continue
        environment, arguments = PATIENCE if pace.slow else (), list(TEST)
        if pace.slow and name in REDUCED:
            variable, value, words = REDUCED[name]
            environment += ((variable, value),)
            reduced.append(f"{name}: {words}")
        without = [*pace.skip, *(TIMED if pace.slow else ())]
        for test, why in ((test, why) for program, test, why in without if program == name):
            arguments += ["--skip", test]
            left_out[f"{name}: {test}"] = why
        arguments += chosen[name] if chosen is not None else ()
        seconds = pace.longer.get(name, pace.seconds)
        result.append(Job(name, name, tuple(arguments), environment, seconds=seconds))
    known = {name for name in left_out if name.split(":")[0] in programs}
    return result, {name: why for name, why in left_out.items() if name in known}, reduced


def attacks(target):
    """The doctor's job; a processor that is not there gets the same patience as in the tests."""
    patience = ("--deadline", "240") if target.pace.slow else ()
    return doctor(*target.doctor, *patience)


@dataclass
class Outcome:
    """What one test program did."""

    passed: int = 0
    skipped: dict = field(default_factory=dict)  # tests with the reason
    notes: set = field(default_factory=set)  # parts of tests that could not be had, with the reason
    failed: list = field(default_factory=list)


def reason(lines):
    """The first line that says something of its own, of what a skipped case has said."""
    for line in lines:
        text = re.sub(r"^test \S+( - should panic)? \.\.\. ?", "", line.strip())
        if text and not text.startswith(("running ", "test result", "SKIPPED ")):
            return re.sub(r"^skipped: ", "", text)
    return "no reason is given"


def read(name, code, lines):
    """What a test program did, by its exit code and what it printed. A skipped test is none that passed."""
    outcome = Outcome()
    ran = [re.search(r"^test result: (ok|FAILED)\. (\d+) passed; (\d+) failed", line) for line in lines]
    ran = [found for found in ran if found]
    part_of_skip = set()
    for number, line in enumerate(lines):
        found = re.search(r"SKIPPED ([\w:]+):(.*)", line)
        if found:
            rest = [found.group(2), *lines[number + 1 : number + 12]]
            outcome.skipped[found.group(1)] = reason(rest)
            part_of_skip.update(range(number + 1, number + 6))
    for number, line in enumerate(lines):
        found = re.search(r"skipped: (.+)", line)
        if found and number not in part_of_skip:
            outcome.notes.add(found.group(1).strip())
    # A case's own run prints a result too, which is shown where it fails: the program's is the last, and the largest.
    if ran:
        passed = max(int(found.group(2)) for found in ran)
        outcome.passed = max(0, passed - len(outcome.skipped))
    if code != 0 or not any(found.group(1) == "ok" for found in ran):
        tests = re.findall(r"^test ([\w:]+)(?: - should panic)? \.\.\. FAILED", "\n".join(lines), re.MULTILINE)
        tests += re.findall(r"^    ([\w:]+)$", "\n".join(lines[-40:]), re.MULTILINE)
        outcome.failed = sorted({f"{name}::{test}" for test in tests}) or [f"{name} ({ending(code)})"]
    return outcome


def ending(code):
    if code is None:
        return "it did not end"
    return "it took too long" if code in (124, 137, 143, -9) else f"exit code {code}"
