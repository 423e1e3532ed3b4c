"""Fields of an update of the policy, in the events ``ppo_update`` and ``round``."""

from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.catalogue.shapes import Field

UPDATE = (
    Field("policy_loss", "float", "mean surrogate loss", "nats"),
    Field("value_loss", "float", "mean loss of the critic in squared standard deviations of returns"),
    Field("entropy", "float", "mean entropy of a whole action", "nats"),
    Field("kl", "float", "mean approximate KL divergence from the behaviour policy", "nats"),
    Field("clip_share", "float", "share of clipped ratios", "share"),
    Field("grad_norm", "float", "mean of the largest gradient norm before clipping, of policy, critic and trunk"),
    Field(
        "explained_variance",
        "float",
        "explained variance of the returns by the values predicted in the rollout; null where all returns are equal",
        "ratio",
        undefined=True,
    ),
    Field("return_variance", "float", "variance of the discounted returns of centred rewards"),
    Field("low_variance", "float", "1 where returns hardly vary, so that explained variance has no meaning"),
    Field("optimizer_steps", "int", "optimizer steps"),
    Field("skipped_minibatches", "int", "minibatches without a step because they were not finite"),
    Field("stopped_by_kl", "float", "1 if the KL limit ended the update early"),
    Field("epsilon", "float", "probability of a random legal action in the rollout", "share"),
    Field("entropy_coefficient", "float", "weight of the entropy bonus"),
    *(
        Field(
            f"entropy_{head}",
            "float",
            f"entropy of {head} at steps with more than one legal choice; null without such a step",
            "nats",
            undefined=True,
        )
        for head in HEADS
    ),
)
UPDATE_DIAGNOSTICS = (
    Field(
        "value_nrmse",
        "float",
        "error of the predicted values in standard deviations of the returns; null where all returns are equal",
        undefined=True,
        added=True,
    ),
    Field(
        "value_return_correlation",
        "float",
        "correlation of predicted values and returns; null where one of them does not vary",
        "ratio",
        undefined=True,
        added=True,
    ),
    Field("ratio_max", "float", "largest probability ratio of an action, new over behaviour policy", added=True),
    Field("clip_share_up", "float", "share of ratios above the clip range", "share", added=True),
    Field("clip_share_down", "float", "share of ratios below the clip range", "share", added=True),
    Field("advantage_std", "float", "standard deviation of the operation's advantages", "reward", added=True),
    Field("log_prob_min", "float", "least log-probability of a sampled action in the rollout", "nats", added=True),
    Field("learning_rate", "float", "learning rate of the optimizer", added=True),
    Field("memory_rms", "float", "root mean square of the policy's state over the steps of the round", added=True),
    *(
        Field(f"choice_share_{head}", "float", f"share of steps at which {head} had a choice", "share", added=True)
        for head in HEADS
    ),
    *(
        Field(f"grad_norm_{head}", "float", f"mean gradient norm of {head} before clipping", added=True)
        for head in HEADS
    ),
    Field("observation_clipped_share", "float", "share of normalised features at their bound", "share", added=True),
    Field(
        "observation_drift_sigma",
        "float",
        "root mean square shift of the normalizer's means, in deviations; null if no episode was learned from",
        undefined=True,
        added=True,
    ),
)
"""Diagnostics that are in ``ppo_update`` alone."""
