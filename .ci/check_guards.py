"""Every test of the library is under a test guard: PATH to the crate, with `tests` and `src`.

A test function in `tests` has to make one (`TestGuard::new`), or to run its body in a process of its own (`case`, `own_process`,
`in_own_process`), which does. One that is meant to be without has a comment `// without a guard: ` and the reason. In `src`, that
goes for tests in files where vaults are made.
"""

import pathlib
import re
import sys

GUARDED = re.compile(r"TestGuard::new\(\)|\b(case|own_process|in_own_process)\(|// without a guard: \w")
MAKES_VAULTS = re.compile(r"Machinery::make\(|Vault::builder\(\)|Secret::(random|builder|from_|init_with)")
# Theirs are models of secrets, and in no vault.
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


def code(text):
    """Without comments, which have examples."""
    return re.sub(r"//.*", "", text)


count, missing = 0, []
crate = pathlib.Path(sys.argv[1])
for path in sorted((crate / "tests").rglob("*.rs")) + sorted((crate / "src").rglob("*.rs")):
    text = path.read_text(encoding="utf-8")
    in_src = (crate / "src") in path.parents
    if in_src and (EXEMPT & set(path.parts) or not MAKES_VAULTS.search(code(text))):
        continue
    for name, line, body in tests(text):
        count += 1
        if not GUARDED.search(body):
            missing.append(f"{path}:{line}: {name}")
for each in missing:
    print(each)
if missing or not count:
    sys.exit(
        f"{len(missing)} of {count} tests are not under a test guard: "
        "begin them with `let _guard = TestGuard::new();`"
    )
print(f"{count} tests, each under a test guard")
