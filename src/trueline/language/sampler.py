"""Drawing replies: a static-cache decoder of our own, Hugging Face's `generate`, and vLLM, behind one interface.

The first two draw by inverting the distribution function: token t of row r is decided by one uniform number, the
generator's draw number r·max_tokens + t. So a reply depends on the generator, its row and its own tokens, up to
rounding, and on nothing else: not on which rows share its batch, which of them have ended, or which of the two draws.
vLLM gives each row a seed of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.language.decoder import Decoder, fits
from trueline.language.models import context_of, end_tokens, merged, quiet
from trueline.language.rollout import Chat, Reply, Rollout, Sampler, Sampling, text_of
from trueline.language.templates import prompts_tokens

__all__ = [
    "Auto",
    "Generate",
    "Samplers",
    "StaticCache",
    "Vllm",
    "VllmSampler",
    "check_for_training",
    "choose",
    "replies_of",
]


class _Prompts(NamedTuple):
    """Distinct prompts, and what each of R rows asks."""

    tokens: list[list[int]]  # U prompts
    group: NDArray[np.int64]  # [R]: which prompt
    cap: NDArray[np.int64]  # [R]: tokens a reply may have, max_tokens or what the context leaves
    asked: tuple[str, ...]  # [R]: in words


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Replies of R rows; entries from a row's count on mean nothing."""

    tokens: Tensor  # [R, T] int64
    log_prob: Tensor  # [R, T]
    count: Tensor  # [R] int64
    ended: Tensor  # [R] bool


class StaticCache(Config):
    """Our own decoder, for models of the Llama architecture of moderate size; others are refused with ConfigError."""

    kind: Literal["static-cache"] = "static-cache"
    rows: int = Field(128, ge=1)  # decoded at once

    def open(self) -> Sampler:
        """Ready as it is."""
        return self

    def sample(self, model: Any, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Rollout:
        """One reply to each chat from the language model; rows with like prompt lengths are decoded together."""
        if not fits(model.model):
            raise ConfigError(
                "sampler 'static-cache' computes plain Llama models, with adapters of their own type or without, "
                f"and not this {type(model.model).__name__}. Use 'auto' or 'generate'."
            )
        prompts = _prompts(model, chats, sampling)
        noise = _noise(len(chats), sampling, rng, model.model.device)
        decoder, drawn = Decoder(model.model), _nothing_drawn(noise)
        lengths = np.array([len(tokens) for tokens in prompts.tokens])
        order = np.argsort(lengths[prompts.group], kind="stable")
        for start in range(0, len(order), self.rows):
            _decode(model, decoder, prompts, order[start : start + self.rows], noise, sampling, drawn)
        return _rollout(model, prompts, drawn)


class Generate(Config):
    """Hugging Face's `generate`, for every architecture it knows; it decides how to cache, we what is drawn."""

    kind: Literal["generate"] = "generate"
    rows: int = Field(128, ge=1)  # generated at once

    def open(self) -> Sampler:
        """Ready as it is."""
        return self

    def sample(self, model: Any, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Rollout:
        """One reply to each chat from the language model."""
        prompts = _prompts(model, chats, sampling)
        noise = _noise(len(chats), sampling, rng, model.model.device)
        drawn = _nothing_drawn(noise)
        lengths = np.array([len(tokens) for tokens in prompts.tokens])
        order = np.lexsort((lengths[prompts.group], -prompts.cap))
        # Rows of one call may have as many tokens, or a long prompt would run out of the context before the others.
        for cap in np.unique(prompts.cap):
            rows = order[prompts.cap[order] == cap]
            for start in range(0, len(rows), self.rows):
                _generate(model, prompts, rows[start : start + self.rows], int(cap), noise, sampling, drawn)
        return _rollout(model, prompts, drawn)


class Auto(Config):
    """`static-cache` where it fits the model, else `generate`."""

    kind: Literal["auto"] = "auto"
    rows: int = Field(128, ge=1)  # at once

    def open(self) -> Sampler:
        """Ready as it is."""
        return self

    def sample(self, model: Any, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Rollout:
        """One reply to each chat from the language model."""
        chosen = StaticCache(rows=self.rows) if fits(model.model) else Generate(rows=self.rows)
        return chosen.sample(model, chats, sampling, rng)


class Vllm(Config):
    """vLLM's engine in this process, on a GPU it shares with the trainer.

    Tested against a stand-in with vLLM's public methods; it has never run with vLLM itself.
    """

    kind: Literal["vllm"] = "vllm"
    memory: float = Field(0.3, gt=0, lt=1)  # share of the GPU's memory that the engine may take

    def open(self) -> Sampler:
        """The sampler; its engine starts with the first rollout.  Raises ConfigError when vLLM is not installed."""
        return VllmSampler(self)


Samplers = Auto | StaticCache | Generate | Vllm  # told apart by `kind`


class VllmSampler:
    """Draws through vLLM. Every rollout first hands it the model's present weights, adapters merged.

    The log-probabilities are vLLM's, of the scaled and truncated distribution; its kernels are not the trainer's, so a
    trainer computes its own and corrects by the ratio.
    """

    def __init__(self, config: Vllm) -> None:
        # By default the engine is a process of its own, into which weights would have to be pickled. vLLM reads this
        # when it is imported, or when the engine starts.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            import vllm
        except ImportError:
            raise ConfigError(
                "sampler 'vllm' needs the package vllm, which is not installed. Install it, or use sampler 'auto'."
            ) from None
        self._vllm, self._config = vllm, config
        self._engine: Any = None

    def sample(self, model: Any, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Rollout:
        """One reply to each chat from the language model."""
        prompts = _prompts(model, chats, sampling)
        self._receive(model)
        seeds = rng.integers(2**31, size=len(chats))
        ends = list(end_tokens(model.model, model.tokenizer))
        requests = [
            self._vllm.SamplingParams(
                temperature=sampling.temperature,
                top_k=sampling.top_k or 0,
                top_p=sampling.top_p or 1.0,
                max_tokens=int(cap),
                stop=list(sampling.stop),
                stop_token_ids=ends,
                seed=int(seed),
                logprobs=0,
            )
            for cap, seed in zip(prompts.cap, seeds, strict=True)
        ]
        asked = [{"prompt_token_ids": prompts.tokens[group]} for group in prompts.group]
        answers = [answer.outputs[0] for answer in self._engine.generate(asked, requests, use_tqdm=False)]
        shape, device = (len(chats), sampling.max_tokens), model.model.device
        tokens, log_prob = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
        for row, answer in enumerate(answers):
            ids = list(answer.token_ids)
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            if sampling.temperature:  # the likeliest token is certain to be taken
                taken = [step[id].logprob for step, id in zip(answer.logprobs, ids, strict=True)]
                log_prob[row, : len(ids)] = torch.tensor(taken)
        count = torch.tensor([len(answer.token_ids) for answer in answers])
        ended = torch.tensor([answer.finish_reason == "stop" for answer in answers])
        return _rollout(model, prompts, _Drawn(*(x.to(device) for x in (tokens, log_prob, count, ended))))

    def _receive(self, model: Any) -> None:
        plain = merged(model.model)
        if self._engine is None:
            with TemporaryDirectory() as folder:
                with quiet():
                    plain.save_pretrained(folder)
                model.tokenizer.save_pretrained(folder)
                self._engine = self._vllm.LLM(
                    model=folder,
                    gpu_memory_utilization=self._config.memory,
                    max_model_len=context_of(plain) if context_of(plain) < 2**31 - 1 else None,
                    # Of the distribution that was drawn from, with its temperature, not of the raw logits.
                    logprobs_mode="processed_logprobs",
                )
            return
        weights = list(plain.named_parameters())
        self._engine.apply_model(lambda inner: inner.load_weights(weights))
        self._engine.reset_prefix_cache()  # its keys and values are those of the weights before


def check_for_training(sampling: Sampling) -> None:
    """Raises ConfigError for settings with which the sampled tokens' probabilities are not those a trainer computes."""
    for name in ("top_k", "top_p"):
        if getattr(sampling, name) is not None:
            raise ConfigError(
                f"sampling.{name} is {getattr(sampling, name)}, but training draws by temperature alone: "
                f"truncated, the tokens' probabilities would not be those the trainer computes. Drop {name}."
            )
    if sampling.temperature == 0:
        raise ConfigError("sampling.temperature is 0, but training needs replies that vary. Give one above 0.")


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Token k with F(k − 1) ≤ u < F(k) and its log-probability: logits [n, V], uniform [n] in [0, 1) -> [n], [n].

    F is the distribution function after temperature, top-k and top-p. At temperature 0 the likeliest token, for sure.
    """
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros(token.shape, device=token.device)
    scaled = logits.float() if sampling.temperature == 1 else logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled.shape[-1]:
        least = scaled.topk(sampling.top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if sampling.top_p is not None:
        ordered, index = scaled.sort(-1, descending=True)
        share = ordered.softmax(-1)
        beyond = share.cumsum(-1) - share >= sampling.top_p  # the likelier ones alone have mass p already
        scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)
    probability = scaled.softmax(-1)
    mass = probability.cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True).clamp_(max=mass.shape[-1] - 1)
    return token[:, 0], probability.gather(-1, token)[:, 0].log()


def replies_of(rollout: Rollout, model: Any, sampling: Sampling) -> list[Reply]:
    """The replies of a rollout as text: without the end token, and up to the first stop string."""
    ends = end_tokens(model.model, model.tokenizer)
    texts = []
    for tokens, sampled in zip(rollout.tokens.cpu(), rollout.sampled.cpu(), strict=True):
        ids = tokens[sampled].tolist()
        text = model.tokenizer.decode(ids[:-1] if ids and ids[-1] in ends else ids, skip_special_tokens=True)
        cut = min((at for at in map(text.find, sampling.stop) if at >= 0), default=len(text))
        texts.append((text[:cut], len(ids)))
    return [Reply(*text, bool(ended)) for text, ended in zip(texts, rollout.ended.tolist(), strict=True)]


# -- one batch --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _decode(
    model: Any,
    decoder: Decoder,
    prompts: _Prompts,
    rows: NDArray[np.int64],
    noise: Tensor,
    sampling: Sampling,
    drawn: _Drawn,
) -> None:
    """Draws the replies of some rows into `drawn`; a row that is over leaves the batch at once."""
    kinds, kind = np.unique(prompts.group[rows], return_inverse=True)
    tokens, lengths = _padded([prompts.tokens[k] for k in kinds], model.tokenizer.pad_token_id)
    caps, device = prompts.cap[rows], noise.device
    row, cap = torch.as_tensor(rows, device=device), torch.as_tensor(caps, device=device)  # of the rows still live
    prompt, noise = torch.as_tensor(kind, device=device), noise[:, row]
    logits = decoder.start(tokens.to(device), lengths.to(device), prompt, int(caps.max()))
    endings = _Endings(model, sampling, drawn)
    steps = []
    for t in range(int(caps.max())):
        token, log_prob = choose(logits, noise[t], sampling)
        steps.append((row, token, log_prob))
        ended = endings.of(row, token, t)
        over = ended | (cap <= t + 1) if t + 1 >= caps.min() else ended
        live = (~over).tolist()
        if not all(live):
            drawn.count[row[over]], drawn.ended[row[over]] = t + 1, ended[over]
            if not any(live):
                break
            order = torch.tensor(decoder.keep(live), device=device)
            row, cap, token, noise = row[order], cap[order], token[order], noise[:, order]
        logits = decoder.step(token)
    at = torch.cat([row for row, _, _ in steps])
    when = torch.repeat_interleave(torch.tensor([len(row) for row, _, _ in steps])).to(device)
    drawn.tokens[at, when] = torch.cat([token for _, token, _ in steps])
    drawn.log_prob[at, when] = torch.cat([log_prob for _, _, log_prob in steps])


def _generate(
    model: Any,
    prompts: _Prompts,
    rows: NDArray[np.int64],
    cap: int,
    noise: Tensor,
    sampling: Sampling,
    drawn: _Drawn,
) -> None:
    """Draws the replies of some rows, each of at most `cap` tokens, into `drawn`."""
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    device, pad = noise.device, model.tokenizer.pad_token_id
    asked = [prompts.tokens[group] for group in prompts.group[rows]]
    width = max(map(len, asked))
    tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in asked], device=device)
    attended = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in asked], device=device)
    row = torch.as_tensor(rows, device=device)
    endings, over = _Endings(model, sampling, drawn), torch.zeros(len(rows), dtype=torch.bool, device=device)
    drawn.count[row] = cap

    def chosen(given: Tensor, logits: Tensor) -> Tensor:
        """Logits that leave `generate` no choice but the token drawn here."""
        t = given.shape[1] - width
        token, log_prob = choose(logits, noise[t, row], sampling)
        drawn.tokens[row, t], drawn.log_prob[row, t] = token, log_prob
        return torch.full_like(logits, -torch.inf).scatter_(1, token[:, None], 0.0)

    def stopped(given: Tensor, _: Any, **__: Any) -> Tensor:
        t = given.shape[1] - width - 1
        fresh = endings.of(row, given[:, -1], t) & ~over
        drawn.count[row[fresh]], drawn.ended[row[fresh]] = t + 1, True
        over.logical_or_(fresh)
        return over

    # The model's own settings (penalties, truncation, temperature) would be merged in; they are no part of `sampling`.
    owner = model.model.get_base_model() if hasattr(model.model, "get_base_model") else model.model
    own, training = owner.generation_config, model.model.training
    settings = GenerationConfig(do_sample=False, max_new_tokens=cap, pad_token_id=pad)
    try:
        owner.generation_config = settings
        model.model.eval()
        with torch.inference_mode():
            model.model.generate(
                input_ids=tokens,
                attention_mask=attended,
                generation_config=settings,
                logits_processor=LogitsProcessorList([chosen]),
                stopping_criteria=StoppingCriteriaList([stopped]),
            )
    finally:
        owner.generation_config = own
        model.model.train(training)


class _Endings:
    """Which replies a token ends: an end token, or the last one of a stop string."""

    def __init__(self, model: Any, sampling: Sampling, drawn: _Drawn) -> None:
        self._tokenizer, self._stop, self._drawn = model.tokenizer, sampling.stop, drawn
        self._ends = torch.tensor(end_tokens(model.model, model.tokenizer), device=drawn.tokens.device)
        # A token is a character or more, or one of a character's up to four bytes.
        self._window = 4 * max(map(len, sampling.stop), default=0) + 4

    def of(self, row: Tensor, token: Tensor, t: int) -> Tensor:
        """Of rows [n] that took `token` [n] at t: [n] bool."""
        ended = (token[:, None] == self._ends).any(1) if len(self._ends) > 1 else token == self._ends
        if self._stop:
            self._drawn.tokens[row, t] = token
            tails = self._drawn.tokens[row, max(0, t + 1 - self._window) : t + 1].tolist()
            texts = self._tokenizer.batch_decode(tails, skip_special_tokens=True)
            met = [any(stop in text for stop in self._stop) for text in texts]
            ended = ended | torch.tensor(met, device=ended.device)
        return ended


# -- rows in and out --------------------------------------------------------------------------------------------------


def _prompts(model: Any, chats: Sequence[Chat], sampling: Sampling) -> _Prompts:
    """Token ids of the chats' prompts.  Raises ConfigError for no chats, and a prompt that leaves no room to reply."""
    if not chats:
        raise ConfigError("no chats were given to reply to. Give at least one.")
    known: dict[Chat, int] = {}
    group = np.array([known.setdefault(tuple(chat), len(known)) for chat in chats])
    tokens = prompts_tokens(model.tokenizer, list(known))
    context = context_of(model.model)
    for k, ids in enumerate(tokens):
        if not 0 < len(ids) < context:
            what = "is empty" if not ids else f"has {len(ids)} tokens, but the model attends to {context}"
            raise ConfigError(
                f"the prompt of chat {int((group == k).argmax())} {what}. Give one that leaves room to reply."
            )
    room = np.array([context - len(ids) for ids in tokens])[group]
    return _Prompts(tokens, group, np.minimum(room, sampling.max_tokens), tuple(map(text_of, chats)))


def _noise(rows: int, sampling: Sampling, rng: np.random.Generator, device: Any) -> Tensor:
    """The uniform numbers [max_tokens, rows] that decide each token."""
    return torch.as_tensor(np.ascontiguousarray(rng.random((rows, sampling.max_tokens)).T)).to(device)


def _nothing_drawn(noise: Tensor) -> _Drawn:
    steps, rows = noise.shape
    return _Drawn(
        torch.zeros((rows, steps), dtype=torch.int64, device=noise.device),
        torch.zeros((rows, steps), device=noise.device),
        torch.zeros(rows, dtype=torch.int64, device=noise.device),
        torch.zeros(rows, dtype=torch.bool, device=noise.device),
    )


def _rollout(model: Any, prompts: _Prompts, drawn: _Drawn) -> Rollout:
    """Prompts and replies side by side, padded on the right."""
    asked, lengths = _padded(prompts.tokens, model.tokenizer.pad_token_id)
    group = torch.as_tensor(prompts.group)
    start, count = lengths[group].to(drawn.count.device), drawn.count
    column = torch.arange(int((start + count).max()), device=count.device)
    attended = column < (start + count)[:, None]
    sampled = attended & (column >= start[:, None])
    replied = torch.arange(drawn.tokens.shape[1], device=count.device) < count[:, None]
    tokens = torch.full(attended.shape, model.tokenizer.pad_token_id, device=count.device)
    shown = attended & ~sampled
    width = min(asked.shape[1], len(column))
    tokens[:, :width][shown[:, :width]] = asked.to(count.device)[group, :width][shown[:, :width]]
    log_prob = torch.zeros(attended.shape, device=count.device)
    # Both masks run through the replies row by row, so that the k-th token of one is the k-th of the other.
    tokens[sampled], log_prob[sampled] = drawn.tokens[replied], drawn.log_prob[replied]
    return Rollout(tokens, attended, sampled, log_prob, group.to(count.device), drawn.ended, prompts.asked)


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids of different length as one tensor padded on the right, and the lengths."""
    lengths = torch.tensor([len(ids) for ids in rows])
    width = int(lengths.max())
    return torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in rows]), lengths
