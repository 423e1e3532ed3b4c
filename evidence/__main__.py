"""Do what is missing of the studies, or of those that are named.

``--list`` prints their names; ``--serial`` works in one process; ``--tables`` only writes the tables.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from esper_ray.leyline.config.layers import load_preset
from evidence import ablations, paths, tables, work
from evidence.studies import ABLATIONS, COMPARISONS, Ablation, Comparison

STUDIES: dict[str, Comparison | Ablation] = {study.name: study for study in (*COMPARISONS, *ABLATIONS)}


def compared(comparison: Comparison, serial: bool) -> Path:
    """The folder with the results of a comparison."""
    return work.compare(comparison, serial, load_preset(comparison.training.preset).ppo.rounds)


def selected(names: Sequence[str]) -> list[tuple[str, Comparison | Ablation]]:
    """The studies whose names begin with one of ``names``; all without any.

    Raises:
        SystemExit: if one is the beginning of no name.
    """
    for begin in names:
        if not any(name.startswith(begin) for name in STUDIES):
            raise SystemExit(f"no study begins with {begin!r}; there are {', '.join(STUDIES)}")
    return [(name, study) for name, study in STUDIES.items() if not names or name.startswith(tuple(names))]


def main() -> None:
    """Entry point of ``python -m evidence``."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("names", nargs="*", help="studies, or beginnings of their names; default: all")
    parser.add_argument("--list", action="store_true", help="print the names of all studies")
    parser.add_argument("--serial", action="store_true", help="train and evaluate in one process, without Ray")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the documentation")
    chosen = parser.parse_args()
    if chosen.list:
        work.CONSOLE.print("\n".join(STUDIES), highlight=False)
        return
    for name, study in () if chosen.tables else selected(chosen.names):
        done = (
            compared(study, chosen.serial) if isinstance(study, Comparison) else ablations.study(study, chosen.serial)
        )
        work.CONSOLE.print(f"{name}: {done.relative_to(paths.ROOT)}", soft_wrap=True, highlight=False)
    for path in tables.write_tables():
        work.CONSOLE.print(f"tables of {path.relative_to(paths.ROOT)} written", highlight=False)


if __name__ == "__main__":
    main()
