"""What others see of a process: its locked memory, its descriptors, the flags of its memory, and all bytes of it."""

import os
import pathlib
import re


def needle(seed=0x00C0FFEE, size=64):
    """The bytes that tests/common/mod.rs makes of a seed."""
    mask, state, words = (1 << 64) - 1, seed | 1, bytearray()
    of = 0x5AA5C33C9669F00F.to_bytes(8, "little")
    for _ in range(size // 8):
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        words += (mixed ^ (mixed >> 27)).to_bytes(8, "little")
    return bytes((byte - of[at % 8]) % 256 for at, byte in enumerate(words))


def process_of(ancestor, program):
    """The process that runs the program, among those that come of another one."""
    parents, name = {}, os.path.basename(program)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
                parents[int(entry)] = (int(stat.rpartition(") ")[2].split()[1]), stat.partition("(")[2].rpartition(")")[0])
            except (OSError, ValueError):
                pass
    for number, (_, comm) in parents.items():
        above = number
        while above in parents and above != ancestor:
            above = parents[above][0]
        if above == ancestor and comm == name[:15]:
            return number
    return None


class Outside:
    """What others see of a process."""

    def __init__(self, number):
        self.root = pathlib.Path(f"/proc/{number}")

    def locked(self):
        text = (self.root / "status").read_text()
        counted = int(re.search(r"^VmLck:\s+(\d+) kB$", text, re.M)[1]) * 1024
        # Some kernels keep secretmem in memory like all of it, and neither mark nor count it as locked.
        for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", (self.root / "smaps").read_text(), flags=re.M):
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) .*/secretmem", part)
            if span and " lo" not in part.partition("VmFlags:")[2]:
                counted += int(span[2], 16) - int(span[1], 16)
        return counted

    def share_files(self):
        return sum("memfd:securememory" in os.readlink(one) for one in (self.root / "fd").iterdir())

    def flags(self, address):
        covers = False
        for line in (self.root / "smaps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if span:
                covers = int(span[1], 16) <= address < int(span[2], 16)
            elif covers and line.startswith("VmFlags:"):
                return set(line.split()[1:])
        return None

    def places(self, what):
        """Where a piece of the bytes is in memory, also where the process itself may not read."""
        # Of 15 bytes in a row one of these is a part.
        found, pieces = [], [what[at : at + 8] for at in range(0, len(what), 8)]
        with open(self.root / "mem", "rb", buffering=0) as memory:
            for line in (self.root / "maps").read_text().splitlines():
                span, access, *rest = line.split(None, 5)
                start, end = (int(part, 16) for part in span.split("-"))
                name = rest[3] if len(rest) > 3 else ""
                if name.startswith(("/", "[v")) or end - start > 64 << 20 or (access[0] == "-" and end - start > 1 << 20):
                    continue
                try:
                    memory.seek(start)
                    bytes_ = memory.read(end - start)
                except OSError:
                    continue
                if any(piece in bytes_ for piece in pieces):
                    found.append(f"{span} {access} {name}".strip())
        return found


def is_had(word):
    return word in ("in force", "unverified", "by construction")


def from_outside(outside, look):
    """What differs from what was said, as others see it."""
    said, did = look["row"]["said"], look["row"]["did"]
    differ = []

    def need(holds, text):
        if not holds:
            differ.append("from outside: " + text)

    locked, files = outside.locked(), outside.share_files()
    need(locked == said["locked_bytes"], f"{locked} bytes are locked, said {said['locked_bytes']}")
    need(files == said["replicas"], f"{files} files with shares, said {said['replicas']}")
    flags = outside.flags(did["view"])
    for name, needed in (("lock", {"lo"}), ("dump", {"dd"}), ("fork", {"wf", "dc"})):
        had = bool(flags and flags & needed)
        need(had == is_had(said[name]), f"{name} is {had}, said {said[name]}")
        did[name] = "in force" if had else "absent"
    places = outside.places(needle())
    if said["store"] == "Paged":
        need(places, "the pages of a paged secret were not found: the search finds nothing")
    else:
        need(not places, f"bytes of a sealed secret in {places}")
    look["row"]["did"]["searched"] = "pages" if places else "nothing"
    return differ
