"""Small recorded runs that were not played, and checks of pages of HTML with SVG."""

import re
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

from learner_builders import small_config
from nissa_builders import complete
from state_builders import report

from esper_ray.leyline.errors import Fault
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.runs.run_directory import RunDirectory

VOID = {"meta", "br", "hr"}
LETTER = 6.2
"""Mean width of a letter of 11 pixels."""
STAGES = ("TRAINING", "BLENDING", "HOLDING", "FOSSILIZED")


def run_of(folder, records, *, status="finished", run_id="run-1", faults=(), **changes):
    """A run directory with these events."""
    config = small_config(**({"ppo__rounds": 3, "name": "digits"} | changes))
    run = RunDirectory.create(folder, config, ["/opt/bin/esper", "train", "ppo", "--seed", "3"], run_id)
    run.log([{"kind": "run_started", "config_sha256": "c0ffee"}, *records])
    for fault in faults:
        run.add_fault({"round": 1, "kind": fault.kind, "who": fault.who, "detail": fault.detail, "seconds": 2.5})
    if status == "finished":
        run.log([{"kind": "run_finished", "policy_sha256": "decade"}])
        run.close()
    run.set_status(status)
    return run


def episode(index, accuracies, *, env=0, round_index=0, control=None, rollback=None, operation="WAIT"):
    """Records of an episode with one seed in r0c0, from germination on."""
    clock = {"round": round_index, "episode": index, "env": env}
    first = {"kind": "episode_started", **clock, "seed": 7, "val_accuracy_pp": 20.0, "growth_ratio": 1.0}
    records = [first]
    if control is not None:
        curve = [20.0, *(control for _ in accuracies)]
        records.append({"kind": "control", **clock, "seed": 7, "val_accuracy_pp": control, "curve_pp": curve})
    for step, accuracy in enumerate(accuracies, 1):
        stage = STAGES[min(step - 1, 3)]
        if stage == "FOSSILIZED":
            records.append(_transition(clock, step))
        records.append(
            {"kind": "env_epoch", **clock, "step": step, "operation": operation, "slot": "r0c0", "success": step != 2}
            | {"val_accuracy_pp": accuracy, "reward": 0.25, "log_prob": -0.5, "slots": {"r0c0": report(stage, 1.5)}}
        )
    if rollback is not None:
        values = {"value": 4.5, "threshold": 3.0}
        records.append({"kind": "rollback", **clock, "step": len(accuracies), "reason": rollback, **values})
    end = {"kind": "outcome", **clock, "step": len(accuracies), "seed": 7, "val_accuracy_pp": accuracies[-1]}
    records.append(end | {"rollback": rollback is not None, "total_reward": 1.0, "growth_ratio": 1.5})
    return [complete(record) for record in records]


def _transition(clock, step):
    record = {"kind": "seed_transition", **clock, "step": step, "slot": "r0c0", "seed": "r0c0-1", "blueprint": "norm"}
    return record | {"from": "HOLDING", "to": "FOSSILIZED", "initiator": "policy"}


def round_end(index, accuracy, **more):
    """Records of the end of a round with two episodes."""
    row = {"round": index, "val_accuracy_ratio": accuracy / 100.0, "committed_accuracy_ratio": 0.2, "episodes": 2}
    row |= {"growth_ratio": 1.5, "return_mean": 0.5, "return_std": 0.25, "entropy_op": 0.9, "kl": 0.01, **more}
    update = complete({"kind": "ppo_update", "round": index})
    for name in (field.name for field in KINDS["ppo_update"].fields if field.added):
        del update[name]
    return [update, complete({"kind": "round", **row})]


def anomaly(round_index, *, begins=True, rounds=0):
    record = {"kind": "anomaly", "round": round_index, "type": "head_collapsed", "subject": "style", "open": begins}
    return complete(record | {"value": 0.04, "threshold": 0.08, "rounds": rounds})


def small_records(*, rollback="loss_spike", low_variance=0.0):
    """Three rounds of two episodes, with a rollback, an anomaly and a control."""
    records = []
    for index, accuracy in enumerate((30.0, 40.0, 50.0)):
        control = 25.0 if index == 0 else None
        records += episode(2 * index, [25.0, 28.0, 29.0, accuracy], round_index=index, control=control)
        back = rollback if index == 1 else None
        records += episode(2 * index + 1, [25.0, 26.0, accuracy - 4.0], env=1, round_index=index, rollback=back)
        records += round_end(index, accuracy - 2.0, low_variance=low_variance if index == 1 else 0.0)
    records.insert(len(records), anomaly(1))
    return [*records, anomaly(2, begins=False, rounds=1)]


def small_run(folder, **more):
    """A finished run of three rounds with a fault."""
    fault = Fault("environment_actor_died", "worker 1", "killed")
    return run_of(folder, small_records(), faults=[fault], **more)


class PageChecker(HTMLParser):
    """Parser that wants every element closed, and collects what a test looks at."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.addresses, self.names, self.words = [], [], [], set(), []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.names.add(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.addresses += [value for name, value in attributes if name in ("href", "src", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def checked(page):
    """The parsed page: every element is closed, ids are unique, addresses stay within the page, every SVG is XML."""
    checker = PageChecker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert {address[0] for address in checker.addresses} <= {"#"}
    assert {address[1:] for address in checker.addresses} <= set(checker.ids)
    assert not checker.names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for picture in pictures(page):
        check_geometry(picture)
    return checker


def pictures(page):
    """Every SVG of a page as a tree."""
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]


def visible_text(page):
    """Words of a page in one line."""
    return " ".join(" ".join(checked(page).words).split())


def check_geometry(picture):
    """Nothing lies outside the view box, and no two labels overlap."""
    if "viewBox" not in picture.attrib:
        return
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for x, y in points(picture):
        assert -0.5 <= x <= width + 0.5, (x, width)
        assert -0.5 <= y <= height + 0.5, (y, height)
    boxes = [(text_box(label), label.text) for label in picture.iter("text")]
    for (left, top, right, bottom), words in boxes:
        assert left >= 0, words
        assert right <= width, words
        assert top >= 0, words
        assert bottom <= height, words
    for (one, first), (other, second) in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (first, second, one, other)


def text_box(label):
    """Left, top, right and bottom of a label, estimated from its letters."""
    x, y, width = float(label.get("x")), float(label.get("y")), LETTER * len(label.text)
    left = {"start": x, "middle": x - width / 2, "end": x - width}[label.get("text-anchor", "start")]
    return left, y - 8.5, left + width, y + 2


def points(picture):
    """Every corner and point of the shapes of a picture."""
    for shape in picture.iter():
        values = {name: float(text) for name, text in shape.attrib.items() if re.fullmatch(r"-?[\d.]+", text)}
        if shape.tag == "line":
            yield values["x1"], values["y1"]
            yield values["x2"], values["y2"]
        elif shape.tag == "rect":
            yield values.get("x", 0.0), values.get("y", 0.0)
            yield values.get("x", 0.0) + values["width"], values.get("y", 0.0) + values["height"]
        elif shape.tag == "circle":
            yield values["cx"], values["cy"]
        elif shape.tag == "polyline":
            yield from (tuple(map(float, pair.split(","))) for pair in shape.attrib["points"].split())
        elif shape.tag == "path":
            numbers = list(map(float, re.findall(r"-?[\d.]+", shape.attrib["d"])))
            yield from zip(numbers[::2], numbers[1::2], strict=True)
