"""The other tests and the doctor in a condition, and why some of them cannot be carried out there."""

import json
import re

from common import tell
from conditions_programs import run_quietly
from conditions_table import NEEDS


def sections(output):
    """What each test has said."""
    found, name = {}, None
    for line in output.splitlines():
        begins = re.fullmatch(r"---- (\S+) stdout ----", line)
        if begins:
            name = begins[1]
        elif line in ("failures:", "successes:"):
            name = None
        elif name:
            found.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def why_not(condition, binary, test, text):
    """Why a test cannot be carried out in a condition: it was told so by a typed error, or it is known. `None`: it failed."""
    for pattern in condition.refuses:
        told = re.search(pattern, text)
        if told:
            return f"it was told: {told[0]}"
    return next((why for named, why in needs(condition) if re.fullmatch(named, f"{binary}::{test}")), None)


def reason(text):
    """What a skipped test has said of why."""
    for line in text.splitlines():
        line = re.sub(r"^test \S+ \.\.\. ?", "", line.strip())
        if line and not line.startswith(("running ", "SKIPPED")):
            return re.sub(r"^skipped: ", "", line)
    return text.strip().splitlines()[0]


def needs(condition):
    return [one for lacks in condition.lacks for one in NEEDS[lacks]]


def suite(condition, prefix, programs, place, verbose):
    """Runs the other tests. Gives how many passed, which could not be carried out, and which failed."""
    passed, without, failed = 0, [], []
    for name, path in programs.suite.items():
        more = {"SECUREMEMORY_WITHOUT_SPLIT": "1"} if "files" in condition.lacks else {}
        code, output = run_quietly([*prefix, path, "--test-threads=2", "--show-output"], place, 600, more)
        result = re.search(r"^test result: \w+\. (\d+) passed; (\d+) failed", output, re.M)
        texts = sections(output)
        bad = re.findall(r"^test (\S+) \.\.\. FAILED$", output, re.M)
        ran_out = [test for test, text in texts.items() if test not in bad and re.search(r"^SKIPPED\b", text, re.M)]
        without += [f"{name}: {test}: {reason(texts[test])}" for test in ran_out]
        # Those that say so themselves have passed for their harness.
        passed += int(result[1]) - len(ran_out) if result else 0
        if result is None or (code != 0 and not bad):
            # Its tests run themselves, and speak in between.
            why = why_not(condition, name, "all", "") if code is not None and code > 0 else None
            if why:
                without.append(f"{name}: {why}")
            else:
                failed.append(f"{name}: ended with {code}: {output[-800:]}")
        for test in bad:
            text = texts.get(test, "")
            why = why_not(condition, name, test, text)
            if why:
                without.append(f"{name}: {test}: {why}")
            else:
                failed.append(f"{name}: {test}")
                tell(f"  {name}: {test}: FAILED" + ("\n" + text[-3000:] if verbose else ""))
    return passed, without, failed


def doctor(prefix, programs, place, expected):
    """Runs the doctor. Gives what it says in a line, and what is wrong."""
    code, output = run_quietly([*prefix, programs.tool, "doctor", "--json"], place, 300)
    try:
        answer = json.loads(output[output.index("{") :])
        checks = answer["checks"]
    except (ValueError, KeyError):
        return "no answer", [f"the doctor ended with {code}: {output[-500:]}"]
    count = {kind: sum(check["outcome"] == kind for check in checks) for kind in ("blocked", "leaked", "skipped")}
    broken = [c for c in checks if c["promised"] == "blocked" and c["outcome"] == "leaked"]
    wrong = [f"the doctor: {c['attack']} on {c['store']}: {c['detail']}" for c in broken]
    if expected == "nothing":
        had = [c for c in checks if c["store"] != "plain" and c["outcome"] != "skipped"]
        if code != 1 or answer.get("ok") or had:
            wrong.append(f"the doctor ended with {code}, and did not say that nothing is to be had")
        return "says that no store is to be had", wrong
    lost = [c for c in checks if c["outcome"] == "skipped" and c["detail"].startswith("failed to run")]
    if expected == "some" and lost and code == 1:
        # It says itself that it has not shown everything.
        return ", ".join(f"{count[kind]} {kind}" for kind in ("blocked", "leaked")) + f", {len(lost)} failed to run", wrong
    if code != 0 or not answer.get("ok"):
        wrong.append(f"the doctor ended with {code}, ok {answer.get('ok')}")
    return ", ".join(f"{number} {kind}" for kind, number in count.items()), wrong
