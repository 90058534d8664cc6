"""Every test of the library is under a test guard: PATH to the crate, with `tests` and `src`.

A test function in `tests` has to make one (`TestGuard::new`), or to run its body in a process of its own (`case`, `own_process`,
`in_own_process`), which does; or to call a function of the same file that does so. One that is meant to be without has a comment `// without a guard: ` and the reason. In `src`, that
goes for tests in files where vaults are made.
"""

import pathlib
import re
import sys

GUARDED = re.compile(r"TestGuard::new\(\)|\b(case|own_process|in_own_process)\(|// without a guard: \w")
MAKES_VAULTS = re.compile(r"Machinery::make\(|Vault::builder\(\)|Secret::(random|builder|from_|init_with)")
# Theirs are models of secrets, and in no vault.
EXEMPT = {"models"}


def functions(text):
    """Name, line and body of each function, and whether it is a test."""
    lines = text.splitlines()
    for begin, line in enumerate(lines):
        found = re.match(r"(\s*)(pub )?fn (\w+)", line)
        if not found:
            continue
        end = begin
        if not line.rstrip().endswith("}"):
            end = next((n for n in range(begin, len(lines)) if lines[n] == found[1] + "}"), begin)
        attributes = begin
        while attributes > 0 and lines[attributes - 1].strip().startswith(("#[", "//")):
            attributes -= 1
        is_test = any(above.strip() == "#[test]" for above in lines[attributes:begin])
        yield found[3], begin + 1, "\n".join(lines[begin : end + 1]), is_test


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
    found = list(functions(text))
    guarded = "|".join(name for name, _, body, is_test in found if not is_test and GUARDED.search(body))
    calls = re.compile(rf"\b({guarded})\(" if guarded else r"(?!)")
    for name, line, body, is_test in found:
        if not is_test:
            continue
        count += 1
        if not GUARDED.search(body) and not calls.search(body):
            missing.append(f"{path}:{line}: {name}")
for each in missing:
    print(each)
if missing or not count:
    sys.exit(
        f"{len(missing)} of {count} tests are not under a test guard: "
        "begin them with `let _guard = TestGuard::new();`"
    )
print(f"{count} tests, each under a test guard")
