"""System calls for each operation, from two summaries of `strace -c`: OP DIFFERENCE FILE FILE.

The second run did DIFFERENCE operations more than the first, so what it called more often is theirs.
"""

import sys

# What an operation may call, and how often at the most. Operations that are not listed are only printed.
EXACTLY = {
    "sealed.read.32": {"pread64": 1.0},
    "sealed.guarded.read.32": {"mprotect": 2.0},
    "sealed.write.32": {"getrandom": 1.0, "pread64": 2.0},
    "sealed.create.32": {"getrandom": 1.0, "pread64": 1.0},
    "paged.read.32": {"mprotect": 2.0},
    "paged.create.32": {"mprotect": 2.0},
}


def summary(path):
    counts = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            # % time, seconds, usecs/call, calls, [errors,] name
            if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
                counts[words[-1]] = int(words[3])
    return counts


op, difference = sys.argv[1], int(sys.argv[2])
few, many = (summary(path) for path in sys.argv[3:])
each = {name: (many[name] - few.get(name, 0)) / difference for name in many}
each = {name: count for name, count in sorted(each.items()) if count >= 0.005}
print(f"{op}: " + (", ".join(f"{count:.2f} {name}" for name, count in each.items()) or "none"))
if op in EXACTLY and each != EXACTLY[op]:
    sys.exit(f"{op}: expected exactly {EXACTLY[op]}")
