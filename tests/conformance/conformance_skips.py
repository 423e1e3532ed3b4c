"""Excluded cases, which pin defects of the reference, each with its reason.

Numbers are those of the defects in section 21 of the description of the reference's rewards.
"""

LOSS_SIGN = "defect 1: the reference feeds the loss family the change with the wrong sign; ours pays improvement"
ON_ATTEMPT = "defect 7: the reference pays a commitment that was declined; ours pays on success"
SCHEDULE = "defects 17, 18: pins which coalitions the reference evaluates; ours evaluates all of up to four seeds"
BY_NAME = "section 16.1: strategies that are asked for by name; ours has one, by the number of seeds"
CONFIGURATIONS = "defect 20: lists of what the reference evaluates at amplitude 1; ours are at live amplitude"
SAMPLED = "defect 20: pins random configurations of a biased estimator; ours evaluates paired orders"

BY_ID = {
    "trainer-loss-fossilize-crash": "defect 2: the reference crashes here with an unbound variable",
    "trainer-rollback-flag-lost": "defect 3: the reference loses the penalty of a rollback; ours is booked at once",
    "pbrs-production-cadence": "defect 4: shaping that does not telescope; ours does on live trajectories",
    "pbrs-farming-cycle": "defect 4: shaping that can be farmed; ours telescopes on live trajectories",
    "trainer-escrow-blendout-remint": "defect 6: credit minted again while a pruned seed fades; ours is closed",
    "aux-target-freshness": "defect 9: a counter that is raised before it is read; ours is 0 when measured",
    "governor-penalty-clamp": "section 22.10: overwrites all earlier rewards of the episode; ours keeps them",
    "governor-penalty-no-transition": "section 22.10: drops a penalty at the end of a batch; ours is booked at once",
    "potential-acc": "defect 27: a potential that no mode uses",
}


def reason_to_skip(case):
    """Reason for the exclusion of ``case``; ``None`` if it is included."""
    given, function = case["inputs"], case.get("function", "")
    if case["id"] in BY_ID:
        return BY_ID[case["id"]]
    if function == "accuracy_potential":
        return BY_ID["potential-acc"]
    if function == "fused_validation_schedule":
        return SCHEDULE
    if case["kind"] == "attribution" and "configs" in case["outputs"]:
        return CONFIGURATIONS
    if function == "effective_strategy" and given["strategy"] != "auto":
        return BY_NAME
    if case["kind"] == "attribution" and (given.get("strategy") == "shapley" or "sampled" in function):
        return SAMPLED
    if case["kind"] == "sequence" and "death_penalty" in given:
        return BY_ID["governor-penalty-clamp"]
    if case["kind"] != "trainer_step":
        return None
    if given["reward_family"] == "loss":
        if given["op"] == "FOSSILIZE":
            return BY_ID["trainer-loss-fossilize-crash"]
        return LOSS_SIGN if given["loss_delta"] else None
    if given["op"] == "FOSSILIZE" and not given["fossilize_handler_succeeds"]:
        return ON_ATTEMPT
    return None
