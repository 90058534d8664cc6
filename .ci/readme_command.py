"""Prints the code block of a Markdown file that follows the marker `<!-- ci: NAME -->`."""

import re
import sys

path, name = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    text = file.read()
blocks = re.findall(r"<!-- ci: " + re.escape(name) + r" -->\s*\n```[a-z]*\n(.*?)\n```", text, re.S)
if len(blocks) != 1:
    sys.exit(f"{path}: {len(blocks)} blocks marked `ci: {name}`, expected one")
print(blocks[0])
