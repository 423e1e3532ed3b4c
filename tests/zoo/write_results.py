"""The writer of ``docs/architectures.json``: ``python tests/zoo/write_results.py [--missing] [--plain] [NAME...]``.

It runs the whole life of every architecture, or of those whose names contain one of the arguments, and replaces their
entries. ``--missing`` runs those without a complete entry. ``--plain`` stops before the exports: their cells stay
empty. The generated page of the reference shows the file.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from zoo_architectures import architectures
from zoo_life import Architecture, Life, live

RESULTS = Path(__file__).parents[2] / "docs" / "architectures.json"


def entry(architecture: Architecture, until: str = "onnx") -> dict[str, Any]:
    """What the life of ``architecture`` gave, as its entry in the file."""
    try:
        life = live(architecture, until=until)
    except ValueError as error:
        return {"result": "refused", "reason": " ".join(str(error).split())}
    except Exception as error:  # a host that cannot be built, or does not run
        return {"result": "wrong", "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {"result": "wrong", "reason": str(life.failed)} if life.failed else right_entry(life)


def right_entry(life: Life) -> dict[str, Any]:
    """Entry of a life without a wrong step."""
    exports = {step: "yes" if life.steps[step] == "ok" else "host" for step in ("export", "onnx") if step in life.steps}
    return {"result": "right", "layouts": sorted(set(life.layouts)), **exports}


def main(arguments: list[str]) -> None:
    """Run the architectures that ``arguments`` select, and write the file after each."""
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = [argument for argument in arguments if not argument.startswith("--")]
    until, done = ("plain", "result") if "--plain" in arguments else ("onnx", "onnx")
    table = architectures()
    for architecture in table:
        selected = not names or any(name in architecture.name for name in names)
        known = results.get(architecture.name, {})
        if not selected or ("--missing" in arguments and (done in known or known.get("result") == "refused")):
            continue
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results[architecture.name] = entry(architecture, until)
        print(f"{time.perf_counter() - start:6.1f} s  {architecture.name}  {results[architecture.name]}", flush=True)
        ordered = {each.name: results[each.name] for each in table if each.name in results}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
