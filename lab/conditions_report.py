"""What is written of the conditions: docs/conditions.json, and docs/CONDITIONS.md made of it."""

import json
import os
import re
import time

from common import PROJECT
from conditions_table import CONDITIONS

TABLE = PROJECT / "docs/CONDITIONS.md"
# What the table is made of: a condition that is not run keeps what was seen of it.
SEEN = PROJECT / "docs/conditions.json"


def cell(row, name):
    """What was said and done of a protection."""
    if row is None:
        return ""
    said, did = row["said"], row["did"]
    if name not in said:
        return "error"
    did = {"faults": "in force"}.get(did[name], did[name])
    said = {"by construction": "in force"}.get(said[name], said[name])
    return said if said == did else f"{said}, {did}"


def holds(rows):
    """Which holds were had, by those who asked for them."""
    had = []
    for kind in ("pkey", "split", "secretmem", "guarded"):
        row = rows.get((kind, "default")) or {}
        if row.get("said", {}).get("hold", "").lower() == kind:
            had.append(kind)
    auto = (rows.get(("auto", "default")) or {}).get("said", {}).get("hold")
    return (auto or "error") + (f" (of {', '.join(had)})" if had else "")


def sentences(rows):
    """What the library says where it says anything: degradations and errors, each with the vaults that it is said of."""
    of = {}
    for (kind, policy), row in rows.items():
        said = row["said"]
        texts = [f"note: {text}" for text in said.get("degradations", [])]
        if "error" in said:
            hint = f"; hint: {said['hint']}" if said["hint"] else ""
            step = {"vault": "no vault", "secret": "no secret"}.get(said["step"], f"no {said['step']}")
            texts.append(f"{step}: {said['error']} (kind {said['error_kind']}){hint}")
        did = row["did"]
        if "at_rest" in did:
            parts = [f"{name} {did[name]}" for name in ("lock", "dump", "fork")]
            parts.append(f"in a child the bytes are {did['child']}; at rest {did['at_rest']}")
            texts.append("seen: " + ", ".join(parts))
        for text in texts:
            text = re.sub(r"\d+ KiB in use", "N KiB in use", re.sub(r"limited to \d{4,} KiB", "limited to N KiB", text))
            of.setdefault(text, {}).setdefault(kind, []).append(policy)
    for text, kinds in of.items():
        by = {}
        for kind, policies in kinds.items():
            by.setdefault(tuple(policies), []).append(kind)
        whose = "; ".join(f"{', '.join(kinds)} with {', '.join(policies)}" for policies, kinds in by.items())
        yield f"{text} [{whose}]"


HEAD = """# Conditions

What the library says and does in containers and on hardened systems. Made by `lab/conditions --suite --doctor --write`;
not to be edited.

Each condition is set, and in it a vault of each kind is made with each of four policies: the default one (guard pages and the fork
guard are required), one that prefers all and requires nothing, one that requires the key hold, and `Policy::strict()`. A secret is made,
read, changed, moved to a new key, looked for in a forked child, and closed. What `status()` and `diagnostics()` say is
compared with what the kernel lists (VmFlags, VmLck, descriptors), from inside and from outside the process, with attempts to read, and
with a search through all memory of the process from outside. Nothing differed, nothing crashed, hung or panicked, and each refusal was
a typed error, unless a row says so.

"in force": said, and seen. "refused, absent": said to be refused, and not there. "unverified, in force": the call succeeded, the
library cannot look (there is no /proc), and from outside it is seen to be there. "error": a vault of the default policy is refused with a
typed error. The columns of protections are those of a vault with the default policy and key hold.

"""


def summary(name, result):
    """What the table tells of a condition."""
    rows = result["rows"]
    auto, paged, strict = (rows.get(key) for key in (("auto", "default"), ("paged", "default"), ("auto", "strict")))
    place = {"out of reach": "out of reach at rest"}.get((paged or {}).get("did", {}).get("at_rest"), "error")
    said = (strict or {"said": {"step": "vault"}})["said"]
    named = re.search(r"`(\w+)`", said.get("error", ""))
    had = "all in force" if said.get("step") != "vault" else "error" + (f" ({named[1]})" if named else "")
    seen = {"seen": time.strftime("%Y-%m-%d", time.gmtime()), "kernel": os.uname().release.split("-")[0]}
    seen["cells"] = [holds(rows), *(cell(auto, name) for name in ("guard", "lock", "dump", "fork")), place, had]
    seen["said"] = list(sentences(rows))
    seen["wrong"] = result["wrong"]
    seen |= {kind: result[kind] for kind in ("tests", "doctor") if result[kind]}
    return seen


def remember(name, result):
    """Adds it to what was seen before. Tests that were not run this time keep their older outcome."""
    seen = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    if result["skipped"]:
        seen.setdefault(name, {"skipped": result["skipped"]})
    else:
        older = {kind: seen.get(name, {})[kind] for kind in ("tests", "doctor") if kind in seen.get(name, {})}
        seen[name] = older | summary(name, result)
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text(json.dumps({name: seen[name] for name in CONDITIONS if name in seen}, indent=1) + "\n")
    TABLE.write_text(document(seen))


def document(seen):
    lines = [HEAD]
    lines.append("| condition | key hold (those to be had) | guard | lock | dump | fork | paged | strict | tests | doctor |")
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for name, condition in CONDITIONS.items():
        one = seen.get(name, {"skipped": "not yet"})
        about = f"{condition.about} (`{name}`)"
        if "skipped" in one:
            lines.append(f"| {about} | not run: {one['skipped']} | | | | | | | | |")
            continue
        tests = "{} passed, {} not carried out, {} failed".format(*one["tests"]) if "tests" in one else "-"
        lines.append("| " + " | ".join([about, *one["cells"], tests, one.get("doctor", "-")]) + " |")
    lines.append("\n\"-\": not run there, or not yet; where a default vault cannot be had, most of it could not do anything.")
    lines.append(
        "Tests that are not carried out are printed with the reason when `lab/conditions` runs: they need what the condition refuses,\n"
        "and were told so by a typed error, or the machine lacks what they are about (protection keys, say).\n"
    )
    when = sorted({(one["seen"], one["kernel"]) for one in seen.values() if "seen" in one})
    lines.append("Seen: " + "; ".join(f"{day}, Linux {kernel}" for day, kernel in when) + ".\n")
    lines.append("## What is said\n")
    for name in CONDITIONS:
        one = seen.get(name, {})
        if "cells" in one:
            lines.append(f"### {name}\n")
            lines += [f"- {text}" for text in one["said"]] or ["Nothing is amiss."]
            lines += [f"- WRONG: {text}" for text in one["wrong"]]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"
