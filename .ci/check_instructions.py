"""Instructions of each operation against what is recorded: TOOL [--write].

`TOOL bench instructions` counts them one by one. Those of the library itself may be a tenth more than instructions.json
says, since compilers differ; the system calls are as many as it says. What the cipher, copies and clearing take depends on
the processor and is not judged. Times are never judged.

`--write` records what is counted now. Exit code 77: nothing can be counted here.
"""

import json
import pathlib
import subprocess
import sys

RECORD = pathlib.Path(__file__).with_name("instructions.json")
# So much more fails. So much less is told: a record that is too high finds nothing.
MARGIN = 0.10


def counted(tool):
    command = [tool, "bench", "instructions", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    print(done.stderr, end="")
    if done.returncode == 77:
        sys.exit(77)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.pop("op"): line for line in lines}


def calls(line):
    return {name: round(count, 2) for name, count in sorted(line["calls"].items())}


def judge(op, now, record):
    """What is wrong with an operation, or None."""
    if op.startswith("sealed.") and now["cipher"] == 0:
        print(f"{op}: skipped: the cipher of this processor is part of what is counted")
        return None
    own, was = round(now["own"]), record["instructions"]
    told = ", ".join(f"{count} {name}" for name, count in calls(now).items()) or "no system call"
    print(f"{op:26} {own:6} instructions ({was} recorded), {told}")
    if own < was * (1 - MARGIN):
        print(f"{op}: fewer than recorded: record them anew")
    if own > was * (1 + MARGIN):
        return f"{own} instructions, {was} recorded"
    if calls(now) != record["calls"]:
        return f"system calls {calls(now)}, recorded {record['calls']}"
    return None


def main():
    tool, *rest = sys.argv[1:]
    now = counted(tool)
    if rest == ["--write"]:
        record = {op: {"instructions": round(line["own"]), "calls": calls(line)} for op, line in now.items()}
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for op in record.keys() - now.keys():
        print(f"{op}: skipped: not to be had here")
    wrong = {op: judge(op, line, record[op]) for op, line in now.items() if op in record}
    for op in now.keys() - record.keys():
        print(f"{op}: {round(now[op]['own'])} instructions, none recorded")
    for op, why in wrong.items():
        if why:
            print(f"FAILED: {op}: {why}")
    if not wrong:
        sys.exit("nothing that is recorded was counted")
    sys.exit(1 if any(wrong.values()) else 0)


main()
