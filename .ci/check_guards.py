"""Every test of the library is under a test guard: DIRECTORY... of Rust sources.

A test function has to make one (`TestGuard::new`), or to run its body in a process of its own (`case`, `own_process`,
`in_own_process`), which does. One that is meant to be without has a comment `// without a guard: ` and the reason.
"""

import pathlib
import re
import sys

GUARDED = re.compile(r"TestGuard::new\(\)|\b(case|own_process|in_own_process)\(|// without a guard: \w")
# Models of the gate make no vaults, and run where a guard's own atomics would be in the way.
EXEMPT = {"models"}


def tests(text):
    """Name, line and body of each test function."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.strip() != "#[test]":
            continue
        indent = line[: len(line) - len(line.lstrip())]
        begin = next(n for n in range(at, len(lines)) if re.match(r"\s*(pub )?fn ", lines[n]))
        end = begin
        if not lines[begin].rstrip().endswith("}"):
            end = next(n for n in range(begin, len(lines)) if lines[n] == indent + "}")
        name = re.search(r"fn (\w+)", lines[begin])[1]
        yield name, begin + 1, "\n".join(lines[begin : end + 1])


count, missing = 0, []
for directory in sys.argv[1:]:
    for path in sorted(pathlib.Path(directory).rglob("*.rs")):
        if EXEMPT & set(path.parts):
            continue
        for name, line, body in tests(path.read_text(encoding="utf-8")):
            count += 1
            if not GUARDED.search(body):
                missing.append(f"{path}:{line}: {name}")
print("\n".join(missing))
if missing or not count:
    sys.exit(f"{len(missing)} of {count} tests are not under a test guard: begin them with `let _guard = TestGuard::new();`")
