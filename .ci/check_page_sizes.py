"""No size of a page is written down: PATHs to look through.

4096, 0x1000 and their like are found in Rust sources, in whatever spelling. A line that has one for another reason says
so, on it or on the one above: `not a page size`; or `all page sizes`, in tests that name several. A comment with the mark and a colon
goes for all lines after it in the same block.
"""

import pathlib
import re
import sys

# As they are written where a page is meant; 64 KiB is a size of many things, and is only looked for as such.
DECIMAL = {4095, 4096, 16383, 16384, 65535}
LITERAL = re.compile(r"(?<![\w.])(0x[0-9a-fA-F_]+|\d[\d_]*)(?:[ui](?:8|16|32|64|size))?(?![\w.]|\s*\*\*)")
SHIFT = re.compile(r"\b1(?:_?[ui](?:32|64|size))?\s*<<\s*12\b|>>\s*12\b")
MARKS = ("not a page size", "all page sizes")


def is_page(text):
    if text.startswith("0x"):
        return int(text[2:].replace("_", "") or "0", 16) in {0x1000, 0xFFF, 0x4000}
    return int(text.replace("_", "")) in DECIMAL


def findings(path):
    above, block = "", None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        depth = len(line) - len(line.lstrip())
        if block is not None and line.strip() and depth < block:
            block = None
        if any(f"// {mark}:" in line for mark in MARKS):
            block = depth
        code = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line.split("//")[0])
        found = SHIFT.search(code) or any(is_page(literal) for literal in LITERAL.findall(code))
        if found and block is None and not any(mark in text for mark in MARKS for text in (line.lower(), above.lower())):
            yield f"{path}:{number}: {line.strip()}"
        above = line


def main():
    paths = [path for root in sys.argv[1:] for path in sorted(pathlib.Path(root).rglob("*.rs")) if "target" not in path.parts]
    if not paths:
        sys.exit("nothing to look through")
    wrong = [finding for path in paths for finding in findings(path)]
    for finding in wrong:
        print(finding)
    if wrong:
        sys.exit(f"{len(wrong)} lines with what may be the size of a page")
    print(f"no size of a page in {len(paths)} files")


main()
