"""Compare our reward formulas with recorded cases of the reference: ``python tests/conformance/rewards.py FILE``.

Prints a line for each divergence, with the case's id and what differs, then the counts. With ``--skipped`` also the
cases that are left out, with the reason. Exit code 0 if nothing diverges, 1 if something does, 2 if the file cannot be
used.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from conformance_helpers import attribution_case, helper_case, normalizer_case
from conformance_skips import reason_to_skip
from conformance_steps import REFUSED, loss_case, reward_case
from conformance_trainer import sequence_case, trainer_case

TOLERANCE = 1e-9


def outcome(case, document):
    """Outputs of our code for ``case``, in the shape of the recorded outputs."""
    match case["kind"]:
        case "reward":
            return reward_case(case)
        case "loss_reward":
            return loss_case(case, document["loss_presets"])
        case "helper":
            return helper_case(case, document["constants"])
        case "attribution":
            return attribution_case(case)
        case "normalizer":
            return normalizer_case(case)
        case "trainer_step":
            return trainer_case(case)
        case "sequence":
            return sequence_case(case)
        case kind:
            raise LookupError(f"unknown kind of case {kind!r}")


def differences(expected, found, tolerance, path=""):
    """Where ``found`` departs from ``expected``.

    ``found`` need not speak of every output, nor of every component; what it speaks of has to be complete.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if path not in ("", "components"):
            for key in expected.keys() - found.keys():
                yield f"{path}.{key}: was {expected[key]!r}, is missing"
        for key, value in found.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in expected:
                yield f"{where}: is {value!r}, was not recorded"
            else:
                yield from differences(expected[key], value, tolerance, where)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{path}: {len(expected)} entries were recorded, there are {len(found)}"
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from differences(one, other, tolerance, f"{path}[{index}]")
    elif _is_number(expected) and _is_number(found):
        if not abs(expected - found) <= tolerance:
            yield f"{path}: was {expected!r}, is {found!r}"
    elif expected != found:
        yield f"{path}: was {expected!r}, is {found!r}"


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def divergence(case, document, tolerance=TOLERANCE):
    """Problem of ``case`` in one line; ``None`` if it passes."""
    expected = case["outputs"]
    try:
        found = outcome(case, document)
    except ValueError as error:
        if "error" not in expected:
            return f"raised {type(error).__name__}: {error}"
        reason = getattr(error, "reason", None)
        if reason not in (REFUSED, expected.get("reason_code", reason)):
            return f"reason of the error was {expected['reason_code']!r}, is {reason!r}"
        return None
    except (LookupError, TypeError, ArithmeticError, AttributeError) as error:
        return f"cannot be run: {type(error).__name__}: {error}"
    if "error" in expected:
        return f"raised {expected['error']} ({expected.get('reason_code')}) in the record, nothing here"
    return "; ".join(differences(expected, found, tolerance)) or None


def check(document):
    """(id, problem) of each divergence, (id, reason) of each excluded case, and number of passed cases."""
    tolerance = document.get("tolerance_abs", TOLERANCE)
    failed, skipped, passed = [], [], 0
    for case in document["cases"]:
        reason = reason_to_skip(case)
        if reason is not None:
            skipped.append((case["id"], reason))
            continue
        problem = divergence(case, document, tolerance)
        if problem is None:
            passed += 1
        else:
            failed.append((case["id"], problem))
    return failed, skipped, passed


def main(arguments):
    paths = [argument for argument in arguments if argument != "--skipped"]
    if len(paths) != 1:
        print("usage: python tests/conformance/rewards.py [--skipped] FILE", file=sys.stderr)
        return 2
    try:
        document = json.loads(Path(paths[0]).read_text(encoding="utf-8"))
        failed, skipped, passed = check(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{paths[0]} cannot be used: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for name, problem in failed:
        print(f"FAIL {name}: {problem}")
    for name, reason in skipped if "--skipped" in arguments else ():
        print(f"skip {name}: {reason}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
