"""Compares the simulator's fixtures as a GPU answers them now with those committed: fixtures.py NOW COMMITTED SIMULATED OUT.json

Prints each entry whose bits differ, and exits with 1 if any does. The simulator may differ in the last bits where PTX allows it, within
the bounds that its own test sets: how many entries do is told, not judged.
"""

import json
import sys


def load(path):
    with open(path) as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    return {name: [words[i : i + 8] for i in range(0, len(words), 8)] for name, words in lines}


def main(now_path, committed_path, simulated_path, out):
    now, committed, simulated = map(load, (now_path, committed_path, simulated_path))
    differing = []
    for name in sorted(now.keys() | committed.keys()):
        found, expected = now.get(name), committed.get(name)
        if found == expected:
            continue
        differing.append(name)
        if found is None or expected is None:
            print(f"{name}: only in {'the recording that is committed' if found is None else 'what was recorded now'}")
            continue
        words = [i for i, (f, e) in enumerate(zip(found, expected)) if f != e]
        shown = ", ".join(f"[{i}] now {found[i]}, committed {expected[i]}" for i in words[:4])
        print(f"{name}: {len(words)} of {len(found)} words differ: {shown}")
    loose = [name for name in now if simulated.get(name) != now[name]]
    print(f"{len(now)} fixtures: {len(differing)} differ from the recording that is committed; the simulator gives other bits in {len(loose)}")
    with open(out, "w") as file:
        json.dump({"fixtures": len(now), "differing": differing, "simulator_other_bits": loose}, file, indent=1)
    return 1 if differing else 0


sys.exit(main(*sys.argv[1:]))
