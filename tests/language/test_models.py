"""Models: presets, folders, adapters, log-probabilities, and the weights that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LETTERS, gpt2, nano

from trueline.core.config import build, to_toml
from trueline.core.errors import ConfigError, MissingExtra, RunError
from trueline.language import models
from trueline.language.models import Lora, ModelRef, attach_lora, convert, load_folder, load_model, token_log_prob
from trueline.language.subject import LanguageModel
from trueline.language.vocabulary import ROLES, Characters, Words, tokenizer_of


def rng(seed: int = 0):
    return np.random.default_rng(seed)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens).logits


def some_tokens(subject, rows: int = 3, columns: int = 12):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(7, len(subject.tokenizer), (rows, columns), generator=generator)


# -- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("nano", 60e3), ("micro", 0.8e6), ("mini", 5e6)])
def test_presets_have_the_stated_sizes(name, expected):
    model = load_model(ModelRef(name=name), rng()).model
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=0.06)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_starting_weights_depend_on_the_given_generator_and_leave_torchs_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_model(ModelRef(), rng(3)).model.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    again, other = (load_model(ModelRef(), rng(seed)).model.state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_has_the_type_that_was_asked_for(dtype):
    model = load_model(ModelRef(vocabulary=LETTERS, dtype=dtype), rng()).model
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_every_setting_of_a_preset_changes_the_model():
    loaded = load_model(ModelRef(vocabulary=Words(words=("yes", "no")), context=64, template="plain"), rng())
    assert loaded.model.config.vocab_size == len(loaded.tokenizer) == 9
    assert models.context_of(loaded.model) == 64
    assert loaded.tokenizer.chat_template == models.TEMPLATES["plain"]


def test_a_reference_survives_a_settings_file():
    import tomllib

    ref = ModelRef(vocabulary=Words(words=("a", "b")), lora=Lora(rank=2, targets=("q_proj",)), dtype="bfloat16")
    assert build(ModelRef, tomllib.loads(to_toml(ref))) == ref


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": "folder", "vocabulary": {"kind": "characters"}}, "vocabulary is for nano, micro, mini"),
        ({"name": "owner/model", "context": 64}, "context is for nano, micro, mini"),
        ({"name": "nano", "revision": "main"}, "revision is for names on the hub"),
        ({"vocabulary": {"kind": "characters", "alphabet": "aba"}}, "'a' more than once"),
        ({"vocabulary": {"kind": "characters", "alphabet": ""}}, "empty"),
        ({"vocabulary": {"kind": "words", "words": ["good", "not good"]}}, "'not good' is not a word"),
        ({"vocabulary": {"kind": "words", "words": ["<eos>"]}}, "reserved"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(given, named):
    with pytest.raises(ConfigError, match=named):
        build(ModelRef, given)


# -- vocabularies -----------------------------------------------------------------------------------------------------


@given(st.text(alphabet=LETTERS.alphabet, max_size=30))
def test_characters_come_back_as_they_were(text):
    tokenizer = tokenizer_of_letters()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def tokenizer_of_letters(cache=[]):  # noqa: B006  (made once: hypothesis calls often)
    if not cache:
        cache.append(tokenizer_of(LETTERS))
    return cache[0]


def test_the_default_alphabet_is_printable_ascii_and_the_line_break():
    text = "".join(map(chr, range(32, 127))) + "\n"
    tokenizer = tokenizer_of(Characters())
    assert sorted(Characters().alphabet) == sorted(text)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_words_are_tokens_and_what_is_unknown_is_marked():
    tokenizer = tokenizer_of(Words(words=("yes", "no", "maybe")))
    ids = tokenizer("no  maybe ever yes", add_special_tokens=False).input_ids
    assert ids == [8, 9, tokenizer.unk_token_id, 7]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "no maybe yes"
    assert tokenizer(f"{ROLES[1]}no{ROLES[2]}", add_special_tokens=False).input_ids == [5, 8, 6]


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    nano().save(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_loads_through_a_reference(folder):
    original, loaded = nano(), load_model(ModelRef(name=str(folder), dtype="float32"), rng())
    tokens = some_tokens(original)
    assert torch.equal(logits_of(original.model, tokens), logits_of(loaded.model, tokens))
    text = "abc de."
    assert loaded.tokenizer(text).input_ids == original.tokenizer(text).input_ids


def pickled(folder):
    """The same model with its weights pickled, as older ones are."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = list(weights.items())
    torch.save(dict(halves[:9]), folder / "pytorch_model-00001-of-00002.bin")
    torch.save(dict(halves[9:]), folder / "pytorch_model-00002-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    return folder


def test_pickled_weights_are_refused_and_converted_once(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"pickled.*trueline convert"):
        load_folder(str(pickled(folder)))
    out = convert(folder, tmp_path / "out")
    assert not list(out.glob("*.bin*"))
    original, tokens = nano(), some_tokens(nano())
    assert torch.equal(logits_of(original.model, tokens), logits_of(load_folder(str(out)).model, tokens))
    with pytest.raises(ConfigError, match="exists already"):
        convert(folder, out)
    with pytest.raises(ConfigError, match=r"no pytorch_model\*\.bin"):
        convert(out, tmp_path / "again")


def test_a_pickle_that_would_run_code_runs_none(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "owned"), "w")

    pickled(folder)
    torch.save({"weight": Hostile()}, folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(RunError, match="more than weights or is damaged"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "out").exists()


def test_programs_in_a_folder_are_not_copied(folder, tmp_path):
    (pickled(folder) / "modeling_own.py").write_text("raise SystemExit")
    assert not list(convert(folder, tmp_path / "out").glob("*.py"))


def edited(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: edited(f, "config.json", model_type="no-such-model"), "no causal language model could be loaded"),
        (lambda f: edited(f, "tokenizer_config.json", eos_token=None), "no end token"),
        (lambda f: tokenizer_of(Characters()).save_pretrained(f), "has 103 tokens, but its model embeds 17"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_what_it_lacks(folder, damage, named):
    damage(folder)
    with pytest.raises(ConfigError, match=named):
        load_folder(str(folder))


def classifier(folder, tied):
    """One that scores sequences, as reward models from elsewhere are saved."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = tokenizer_of(LETTERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_head_that_is_not_in_the_folder_is_missed_and_never_made_up(tmp_path):
    with pytest.raises(ConfigError, match=r"lack lm_head\.weight, which a causal language model needs"):
        load_folder(classifier(tmp_path / "untied", tied=False))
    model = load_folder(classifier(tmp_path / "tied", tied=True)).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_of_many_weights_that_are_missing_three_are_named(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "mlp" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack model\.layers\.0\.mlp.*and 3 more, which"):
        load_folder(str(folder))


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"'nobody/nothing', which is no folder here.*one of nano, micro, mini"):
        load_folder("nobody/nothing")


def test_a_tokenizer_without_padding_gets_its_end_token_for_it_and_says_so(folder):
    edited(folder, "tokenizer_config.json", pad_token=None)
    with pytest.warns(UserWarning, match="no padding token; its end token stands in"):
        loaded = load_folder(str(folder))
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        nano()  # one with padding is not warned about


def test_end_tokens_are_the_tokenizers_and_those_of_the_generation_settings():
    subject = nano()
    assert models.end_tokens(subject.model, subject.tokenizer) == (2,)
    subject.model.generation_config.eos_token_id = [9, 2]
    assert models.end_tokens(subject.model, subject.tokenizer) == (2, 9)
    subject.model.generation_config.eos_token_id = None
    assert models.end_tokens(subject.model, subject.tokenizer) == (2,)


def test_nothing_of_hugging_face_is_imported_before_it_is_needed():
    names = ("models", "templates", "vocabulary", "subject", "sampler", "decoder")
    code = f"import sys\nimport {', '.join('trueline.language.' + name for name in names)}\n"
    code += "print({'transformers', 'peft', 'tokenizers', 'accelerate', 'jinja2'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_without_hugging_face_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: load_model(ModelRef(), rng()), lambda: load_folder("anything")):
        with pytest.raises(MissingExtra, match=r"trueline\[language\]"):
            call()


# -- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_token_log_prob_is_the_logarithm_of_the_softmax_before_each_token(temperature):
    subject = nano()
    tokens = some_tokens(subject)
    found = token_log_prob(subject.model, tokens, temperature).detach()
    probability = (logits_of(subject.model, tokens).double() / temperature).softmax(-1)
    for row in range(3):
        assert found[row, 0] == 0
        for t in range(1, 12):
            expected = probability[row, t - 1, tokens[row, t]].log()
            assert float(found[row, t]) == pytest.approx(float(expected), abs=1e-4)


def test_token_log_prob_does_not_see_what_comes_after():
    subject = gpt2()
    tokens = some_tokens(subject)
    changed = tokens.clone()
    changed[:, 8:] = 0  # as padding would be
    whole, cut = (token_log_prob(subject.model, x) for x in (tokens, changed))
    torch.testing.assert_close(whole[:, :8], cut[:, :8], atol=1e-6, rtol=0)


# -- adapters ---------------------------------------------------------------------------------------------------------


def adapted(**settings):
    """A model with adapters that have learnt something, and the one it started from."""
    subject = nano()
    before = nano().model
    model = attach_lora(subject.model, Lora(rank=4, alpha=8, **settings), seed=1)
    tokens = some_tokens(subject)
    assert torch.equal(logits_of(model, tokens), logits_of(before, tokens))  # B = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model, before, tokens


def test_adapters_add_their_product_and_alone_are_trained():
    model, before, tokens = adapted()
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    expected = x @ (before.model.layers[0].self_attn.q_proj.weight + 8 / 4 * product).T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert (logits_of(model, tokens) - logits_of(before, tokens)).abs().max() > 0.1


def test_the_reference_is_the_model_without_its_adapters():
    model, before, tokens = adapted()
    own = logits_of(model, tokens)
    with models.reference(model) as reference:
        assert torch.equal(logits_of(reference, tokens), logits_of(before, tokens))
    assert torch.equal(logits_of(model, tokens), own)
    with pytest.raises(ConfigError, match="no adapters"), models.reference(before):
        pass


def test_a_merged_model_is_plain_and_the_adapted_one_stays_as_it_is():
    model, before, tokens = adapted()
    own = logits_of(model, tokens)
    plain = models.merged(model)
    assert type(plain) is type(before)
    torch.testing.assert_close(logits_of(plain, tokens), own, atol=1e-4, rtol=0)
    assert torch.equal(logits_of(model, tokens), own)
    assert models.merged(before) is before


def test_adapters_go_where_they_are_told():
    model, _, _ = adapted(targets=("v_proj",))
    assert {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad} == {"v_proj"}
    with pytest.raises(ConfigError, match=r"lora.targets \['nothing'\]"):
        attach_lora(nano().model, Lora(targets=("nothing",)), seed=0)


def test_a_reference_with_adapters_starts_from_the_given_generator():
    ref = ModelRef(vocabulary=LETTERS, lora=Lora(rank=2))
    first, again = (dict(load_model(ref, rng(1)).model.named_parameters()) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert LanguageModel.of(ref, rng()).model.peft_config["default"].r == 2
