"""The library's tests again and again, in a different order each time: ROUNDS [MINUTES].

A round runs all test binaries in random order. The tests of a binary are cut into random groups, each of which runs in
a process of its own, with a random number of threads: so each test meets others, and others before it, than in the round
before. No round begins after MINUTES (90). The seed is printed; SECUREMEMORY_REPEAT_SEED sets it.
SECUREMEMORY_REPEAT_WITHOUT names binaries that are left out. A failure does not end it: all are told at the end.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

PACKAGE = "securememory"
# As long as one group may take.
LIMIT = 900

rounds = int(sys.argv[1])
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 90.0
seed = int(os.environ.get("SECUREMEMORY_REPEAT_SEED", random.SystemRandom().randrange(1 << 32)))
without = os.environ.get("SECUREMEMORY_REPEAT_WITHOUT", "").split()
chance = random.Random(seed)
print(f"seed {seed}", flush=True)


def binaries():
    """Each test binary, and where cargo would run it.

    All packages are asked for, as by those who test the whole: for one alone cargo would unite features in another way, and
    build everything again.
    """
    command = ["cargo", "test", "--workspace", "--lib", "--tests", "--no-run", "--message-format=json"]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in built.splitlines():
        message = json.loads(line)
        if not message.get("executable") or not message.get("profile", {}).get("test"):
            continue
        directory = os.path.dirname(message["manifest_path"])
        if os.path.basename(directory) == PACKAGE and message["target"]["name"] not in without:
            yield message["executable"], directory


def names(binary, directory):
    listed = subprocess.run([binary, "--list", "--format=terse"], cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
    return [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]


def groups(tests):
    """All of them in random order, in one to four groups."""
    tests = chance.sample(tests, len(tests))
    parts = min(len(tests), chance.choice([1, 1, 2, 4]))
    return [tests[part::parts] for part in range(parts)]


begin = time.monotonic()
# A copy, so that a build meanwhile does not change what is run.
place = tempfile.TemporaryDirectory(prefix="securememory-repeat.")
os.chmod(place.name, 0o755)
all_tests = []
for binary, directory in binaries():
    copy = shutil.copy2(binary, place.name)
    all_tests.append((copy, directory, names(copy, directory)))
total = sum(len(tests) for _, _, tests in all_tests)
print(f"{total} tests in {len(all_tests)} binaries, built in {time.monotonic() - begin:.0f} s", flush=True)
begin, failures = time.monotonic(), []
for done in range(rounds):
    if time.monotonic() - begin > minutes * 60:
        failures.append(f"{minutes} minutes were over after {done} of {rounds} rounds")
        break
    started = time.monotonic()
    for binary, directory, tests in chance.sample(all_tests, len(all_tests)):
        for group in groups(tests):
            threads = chance.choice([1, 2, 4, 8, 16])
            command = [binary, "--exact", f"--test-threads={threads}", *group]
            try:
                ran = subprocess.run(
                    command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT
                )
                code, said = ran.returncode, ran.stdout
            except subprocess.TimeoutExpired as late:
                code, said = "none in time", (late.stdout or b"").decode(errors="replace")
            if code != 0:
                failures.append(f"round {done + 1}: code {code} from {' '.join(command)}")
                print(said, failures[-1], sep="\n", flush=True)
    print(f"round {done + 1} of {rounds}: {time.monotonic() - started:.0f} s", flush=True)
if failures:
    sys.exit("\n".join([f"seed {seed}", *failures]))
