"""What was seen on each target: kept in docs/platforms.json, told in docs/PLATFORMS.md and in a table of README.md."""

import json
import pathlib
import re

from common import PROJECT
from targets import TARGETS

DATA = PROJECT / "docs/platforms.json"
PAGE = PROJECT / "docs/PLATFORMS.md"
README = PROJECT / "README.md"
BEGIN = "<!-- platforms: begin, written by lab/run -->"
END = "<!-- platforms: end -->"


def load():
    """Results by target; a target that nobody has tried is not run."""
    known = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    never = {"status": "not run", "reason": "not tried yet"}
    return {name: known.get(name, dict(never)) for name in TARGETS}


def keep(results, name, new):
    """A new result takes the place of the old one; that something could not be run now leaves an older result as it is."""
    if new["status"] == "not run" and results[name]["status"] != "not run":
        return
    results[name] = new


def failed(result):
    """The programs of a result of which something failed."""
    if result["status"] != "ran":
        return set()
    programs = {program(entry) for entry in result["failed"]}
    return programs | ({"doctor"} if result["doctor"].startswith("FAILED") else set())


def program(entry):
    """Whose an entry of a list of a result is."""
    return re.match(r"\w+", entry)[0]


def merged(old, new, chosen):
    """An older result, in which these programs were run again."""
    result = {**old, **{key: new[key] for key in ("not_attacked", "doctor", "doctor_short") if key in new}}
    result["passed"] = {**old["passed"], **new["passed"]}
    for key in ("failed", "notes"):
        result[key] = sorted([entry for entry in old[key] if program(entry) not in chosen] + new[key])
    for key in ("skipped", "left_out"):
        result[key] = {entry: why for entry, why in old[key].items() if program(entry) not in chosen} | new[key]
    again = dict.fromkeys(sorted(chosen), f"{new['date']}, commit {new['commit']}")
    return result | {"again": old.get("again", {}) | again}


def tests(result):
    """In a few words, how the suite went."""
    words = [f"{sum(result['passed'].values())} passed"]
    if result["failed"]:
        words.append(f"**{len(result['failed'])} failed**")
    words.append(f"{len(result['skipped'])} skipped")
    if result["left_out"]:
        words.append(f"{len(result['left_out'])} left out")
    return ", ".join(words)


def row(name, result):
    """A row of the table, for one target."""
    target = TARGETS[name]
    if result["status"] == "not run":
        return [target.system, "not run", "", "", result["reason"], "", ""]
    if "type" in result["status"]:
        told = result["status"] + (f": {result['reason']}" if result.get("reason") else ", never run")
        return [target.system, "compiler only", "", "", told, "", result["date"]]
    return [
        target.system,
        result["how"],
        result["kernel"],
        result["page"],
        tests(result),
        result["doctor_short"],
        result["date"],
    ]


def table(results):
    """All targets, as a table of Markdown."""
    head = ["platform", "how", "kernel", "pages", "tests", "doctor", "date"]
    rows = [head, ["---"] * len(head), *(row(name, result) for name, result in results.items())]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows)


def plain(results, names):
    """The same for a terminal."""
    rows = [row(name, results[name]) for name in names]
    rows = [[name, *cells[1:6]] for name, cells in zip(names, rows)]
    widths = [max(len(cells[at]) for cells in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in rows)


def listed(title, entries):
    """Reasons, each once, with who has it; nothing where there are none."""
    if not entries:
        return []
    by_reason = {}
    for name, why in entries.items():
        by_reason.setdefault(why, []).append(name)
    lines = [f"{title}:", ""]
    for why, names in sorted(by_reason.items(), key=lambda entry: entry[1]):
        lines.append(f"- {why}: {', '.join(f'`{name}`' for name in sorted(names))}")
    return [*lines, ""]


def section(name, result):
    """All that was seen on one target."""
    target = TARGETS[name]
    lines = [f"## {target.system}: `{name}`", ""]
    if result["status"] == "not run":
        return [*lines, f"Not run: {result['reason']}.", ""]
    if "type" in result["status"]:
        what = "Only the compiler has seen the library and the tool for this target; nothing of them was run"
        what += f"; {result['c']}." if "c" in result else "."
        lines += [f"{result['date']}, commit {result['commit']}: {result['status']}. {what}", ""]
        return [*lines, *([result["reason"], ""] if result.get("reason") else [])]
    lines += [
        f"{result['date']}, commit {result['commit']}, {result['how']}, {result['by']}. {result['kernel']}, pages of "
        f"{result['page']}, {result['processor']}, {result['processors']} processors. Rust target `{target.triple}`.",
        "",
        f"Tests: {tests(result)}. Doctor: {result['doctor']}",
        "",
    ]
    lines += listed("Run again later, since they had failed", result.get("again", {}))
    if result["not_attacked"]:
        lines += ["What the doctor did not attack:", "", *(f"- {text}" for text in result["not_attacked"]), ""]
    if target.limits:
        lines += [f"What this does not show: {target.limits}.", ""]
    if result["failed"]:
        lines += ["Failed:", "", *(f"- `{test}`" for test in result["failed"]), ""]
    lines += listed("Skipped, with what the test said", result["skipped"])
    lines += listed("Left out", result["left_out"])
    if result["reduced"]:
        lines += ["With smaller numbers, since an emulated processor is slow:", ""]
        lines += [*(f"- {text}" for text in result["reduced"]), ""]
    if result["notes"]:
        lines += ["Parts of tests that were not to be had:", "", *(f"- {note}" for note in result["notes"]), ""]
    return lines


def page(results):
    """docs/PLATFORMS.md."""
    lines = [
        "# Platforms",
        "",
        "<!-- Written by lab/run from docs/platforms.json: do not edit. -->",
        "",
        "What was seen where, with the date of the run: the library's tests (`cargo test -p securememory`) and `securememory",
        "doctor`. A skipped test has said why it cannot run there and is not among those that passed. A target that is",
        "type-checked was never run. `lab/run NAME` runs one, `lab/run --all` all; `lab/README.md` says what that takes.",
        "",
        table(results),
        "",
    ]
    for name, result in results.items():
        lines += section(name, result)
    return "\n".join(lines).rstrip() + "\n"


def readme(results):
    """README.md with the table in its place."""
    text = README.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md has not one of each: {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}"


def anonymous(value):
    """Without the paths of this machine."""
    if isinstance(value, str):
        value = value.replace(str(PROJECT), ".").replace(str(pathlib.Path.home()), "~")
        return re.sub(r"/\S*securememory-lab-\w+", "(a directory of the lab)", value)
    if isinstance(value, list):
        return [anonymous(each) for each in value]
    if isinstance(value, dict):
        return {anonymous(name): anonymous(each) for name, each in value.items()}
    return value


def write(results):
    results = anonymous(results)
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    README.write_text(readme(results), encoding="utf-8")


def disagreements():
    """Which of the files do not say what the data says."""
    results = load()
    wanted = {PAGE: page(results), README: readme(results)}
    return [str(path.relative_to(PROJECT)) for path, text in wanted.items() if not path.exists() or path.read_text() != text]
