"""Checks the answer of `securememory doctor --json`: FILE EXIT_CODE.

Shape, no attack that got through against a promise, a baseline that loses, and an exit code that says
the same as the answer.
"""

import json
import sys

path, code = sys.argv[1], int(sys.argv[2])
problems = []


def need(condition, text):
    if not condition:
        problems.append(text)


try:
    with open(path, encoding="utf-8") as file:
        answer = json.load(file)
except ValueError as error:
    sys.exit(f"not JSON: {error}; exit code {code}")

need(isinstance(answer, dict), "the answer is not an object")
need(answer.get("version") == 1, f"version is {answer.get('version')!r}, not 1")
need(isinstance(answer.get("ok"), bool), "`ok` is not a boolean")
need(isinstance(answer.get("host"), dict) and answer["host"], "`host` is not an object with content")
checks = answer.get("checks")
need(isinstance(checks, list) and checks, "`checks` is not a list with content")

seen = set()
skipped = {}
for number, check in enumerate(checks or []):
    place = f"check {number}"
    if not isinstance(check, dict):
        problems.append(f"{place} is not an object")
        continue
    attack, store = check.get("attack"), check.get("store")
    place += f" ({attack} on {store})"
    for field in ("attack", "store", "outcome", "promised", "detail"):
        need(isinstance(check.get(field), str), f"{place}: `{field}` is not a string")
    outcome, promised = check.get("outcome"), check.get("promised")
    need(outcome in ("blocked", "leaked", "skipped"), f"{place}: outcome {outcome!r}")
    need(promised in ("blocked", "leaked"), f"{place}: promised {promised!r}")
    need((attack, store) not in seen, f"{place}: a second time")
    seen.add((attack, store))
    need(not (promised == "blocked" and outcome == "leaked"), f"{place}: leaked, promised blocked: {check.get('detail')}")
    if store == "plain" and promised == "leaked":
        need(outcome != "blocked", f"{place}: the baseline did not lose: the check proves nothing")
    if outcome == "skipped":
        skipped.setdefault((store, check.get("detail")), []).append(attack)

stores = {store for _, store in seen}
for store in ("plain", "sealed-pkey", "sealed-split", "sealed-secretmem", "sealed-guarded", "paged"):
    need(store in stores, f"no check on {store}")
leaks = {attack for attack, store in seen if store == "plain"}
need(leaks, "the baseline was not attacked")

ok = answer.get("ok")
need((code == 0) == (ok is True), f"exit code {code}, but ok is {ok}")
need(ok is True, "ok is not true")

count = {kind: sum(c.get("outcome") == kind for c in checks or [] if isinstance(c, dict)) for kind in ("blocked", "leaked", "skipped")}
print(f"{len(checks or [])} checks: {count['blocked']} blocked, {count['leaked']} leaked, {count['skipped']} skipped")
for (store, why), attacks in skipped.items():
    attacks = ", ".join(attacks) if len(attacks) < 4 else f"{len(attacks)} attacks"
    print(f"  skipped: {attacks} on {store}: {why}")
for problem in problems:
    print(f"  PROBLEM: {problem}")
sys.exit(1 if problems else 0)
