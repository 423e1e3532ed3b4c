"""Grown decoders that generate with a cache of keys and values, and adapters on grown networks."""

import pytest
import torch
from kasmina_builders import READY, WORTHY, wake
from torch import nn

from esper_ray.growing import grow
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.tolaria.assembly import GrowthError

pytestmark = pytest.mark.integration

pytest.importorskip("transformers")

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
KINDS = {
    "llama": {**SIZES, "num_key_value_heads": 2, "intermediate_size": 32},
    "gpt2": {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
}
PLACES = {
    "llama": {"r0c0": "model.layers.0", "r0c1": "model.layers.1.mlp"},
    "gpt2": {"r0c0": "transformer.h.0", "r0c1": "transformer.h.1.mlp"},
}
CACHE = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


def tokens(*shape):
    return torch.randint(3, 32, shape, generator=torch.Generator().manual_seed(1))


def decoder(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind])).eval()


def grown(kind, blueprint, host=None, style="linear_add", places=None, commit=False):
    example = {"input_ids": tokens(2, 8)}
    places = places or PLACES[kind]
    model = MorphogeneticModel.wrap(host or decoder(kind), places, example, rules=READY)
    for slot in model.slot_ids:
        torch.manual_seed(2)
        assert model.germinate(slot, blueprint, style=style, tempo=1)
        wake(model.cell(slot).seed, 2.0)
        for _ in range(2):
            assert model.advance(slot, WORTHY)
        model.tick()
        if commit:
            assert model.advance(slot, WORTHY)
            assert model.fossilize(slot, WORTHY)
    return model.eval()


def by_hand(model, prompt, steps):
    """Greedy tokens from whole passes without a cache."""
    with torch.no_grad():
        for _ in range(steps):
            logits = model(input_ids=prompt, use_cache=False).logits[:, -1]
            logits[:, 2] = -torch.inf  # the end of the text, which a minimal length excludes
            prompt = torch.cat([prompt, logits.argmax(-1, keepdim=True)], dim=1)
    return prompt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["linear_add", "gated_gate"])
def test_a_decoder_with_seeds_for_each_token_generates_with_a_cache(kind, style):
    model, prompt = grown(kind, "mlp_small", style=style), tokens(2, 5)
    host = decoder(kind)
    expected = by_hand(model, prompt, 6)
    assert torch.equal(model.generate(prompt, use_cache=True, **CACHE), expected)
    assert not torch.equal(expected, by_hand(host, prompt, 6))


@pytest.mark.parametrize("blueprint", ["attention", "flex_attention"])
def test_a_seed_that_mixes_tokens_is_refused_under_a_cache(blueprint):
    model, prompt = grown("llama", blueprint), tokens(2, 5)
    with pytest.raises(ValueError, match=r"seed in r0c0, r0c1 mixes tokens, .* use_cache=False"):
        model.generate(prompt, use_cache=True, **CACHE)
    assert torch.equal(model.generate(prompt, use_cache=False, **CACHE), by_hand(model, prompt, 6))


def test_a_plain_decoder_with_seeds_for_each_token_keeps_its_cache():
    model, prompt = grown("llama", "lora", commit=True), tokens(2, 5)
    plain = model.plain()
    assert plain.generation_config.use_cache is not False
    assert torch.equal(plain.generate(prompt, use_cache=True, **CACHE), by_hand(model, prompt, 6))


def test_a_plain_decoder_whose_seed_mixes_tokens_generates_without_a_cache():
    model, prompt = grown("llama", "attention", commit=True), tokens(2, 5)
    with pytest.warns(UserWarning, match=r"the seed in r0c0, r0c1 mixes tokens; the plain model generates without"):
        plain = model.plain()
    assert torch.equal(plain.generate(prompt, **CACHE), by_hand(model, prompt, 6))
    with pytest.raises(AssertionError, match="use_cache=False"):
        plain.generate(prompt, use_cache=True, **CACHE)
    assert model.host.config.use_cache


def test_later_tokens_do_not_change_earlier_outputs_of_a_grown_decoder():
    model, prompt = grown("llama", "attention"), tokens(1, 8)
    other = prompt.clone()
    other[:, 5:] = 3
    with torch.no_grad():
        first, second = (model(input_ids=ids).logits[:, :5] for ids in (prompt, other))
    assert torch.allclose(first, second, rtol=0, atol=1e-6)


def test_attributes_of_the_host_are_those_of_the_model():
    model = grown("llama", "lora")
    assert model.config is model.host.config
    assert model.host_parameters > 0  # its own come first
    with pytest.raises(AttributeError, match="no attribute 'confg'"):
        model.confg  # noqa: B018  # the access is the test


of_peft = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def adapters():
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, init_lora_weights=False)


@of_peft
def test_seeds_grow_on_a_host_with_adapters():
    from peft import get_peft_model

    host = get_peft_model(decoder("llama"), adapters())
    places = {slot: f"base_model.model.{place}" for slot, place in PLACES["llama"].items()}
    model = grown("llama", "mlp_small", host=host, places=places, commit=True)
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.1)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.train()(input_ids=tokens(2, 8)).logits.square().mean().backward()
    optimizer.step()
    named = dict(model.named_parameters())
    assert all(torch.equal(value, named[name]) for name, value in frozen.items())
    assert {name for name, value in before.items() if not torch.equal(value, named[name])} >= {
        name for name in before if "lora" in name
    }
    plain, ids = model.eval().plain(), tokens(2, 8)
    with torch.no_grad():
        assert torch.allclose(plain(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-5)
    merged = plain.merge_and_unload()
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-4)


@of_peft
def test_adapters_on_top_of_a_grown_model_leave_its_seeds_in_place():
    from peft import get_peft_model

    model, ids = grown("llama", "mlp_small", commit=True), tokens(2, 8)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    tuned = get_peft_model(model, adapters())
    with torch.no_grad():
        changed = tuned(input_ids=ids).logits
        with tuned.disable_adapter():
            assert torch.equal(tuned(input_ids=ids).logits, expected)
        assert not torch.equal(changed, expected)
        assert torch.allclose(model.plain()(input_ids=ids).logits, changed, rtol=0, atol=1e-5)
    assert any(parameter.requires_grad for name, parameter in tuned.named_parameters() if "lora" in name)


class OwnCache(nn.Module):
    """A decoder that keeps its tokens itself, in one of three ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.embed, self.block, self.head = way, nn.Embedding(32, 8), nn.Linear(8, 8), nn.Linear(8, 32)
        self.register_buffer("tokens", torch.zeros(16, 16, 8), persistent=False)
        self.past = None
        self.register_buffer("angles", None, persistent=False)

    def forward(self, ids):
        h = self.embed(ids)
        if self.way == "buffer":
            self.tokens[: len(h), : h.shape[1]] = h
        elif self.way == "longer":
            self.past = (h,) if self.past is None else (torch.cat([self.past[0], h], dim=1),)
        else:
            self.angles = torch.ones(1, h.shape[1], 8)  # computed anew, as rotary embeddings do
        return self.head(self.block(h))


@pytest.mark.parametrize(("way", "name"), [("buffer", "tokens"), ("longer", "past"), ("none", None)])
def test_a_seed_that_mixes_tokens_is_refused_where_a_decoder_keeps_them_itself(way, name):
    model = MorphogeneticModel.wrap(OwnCache(way), {"r0c0": "block"}, tokens(2, 5), rules=READY)
    assert model.attachments["r0c0"].host_cache == name
    if name is None:
        assert model.germinate("r0c0", "attention")
        return
    message = f"r0c0: the seed mixes tokens, but the host keeps earlier ones in '{name}'"
    for blueprint in ("attention", "flex_attention"):
        with pytest.raises(ValueError, match=message):
            model.germinate("r0c0", blueprint)
    assert model.states["r0c0"] is None
    assert model.germinate("r0c0", "mlp_small")


def test_a_policy_is_not_offered_what_misses_the_cache_of_a_decoder():
    model, ids = OwnCache("buffer"), tokens(16, 5)
    with pytest.raises(GrowthError, match=r"attention.*the host keeps earlier ones in 'tokens'"):
        grow(model, (ids, ids), slots={"r0c0": "block"}, growth={"blueprints": ["attention", "norm"]}, report=len)
