"""Language models as subjects: one that replies, and one that scores; saved in Hugging Face's plain layout."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trueline.core.errors import ConfigError, RunError
from trueline.core.progress import stage
from trueline.language.batches import parts_to_read
from trueline.language.models import (
    ModelRef,
    end_tokens,
    load_folder,
    load_model,
    merged,
    quiet,
    token_log_prob,
)
from trueline.language.rollout import Chat, Reply, Sampler, Sampling
from trueline.language.sampler import Auto, replies_of
from trueline.language.templates import encode_reply, reply_end

if TYPE_CHECKING:
    from trueline.language.elasticity.tuning import Stage, TuneProtocol
    from trueline.language.sources import Data

__all__ = [
    "History",
    "LanguageModel",
    "ScoreModel",
    "history_of",
    "judges_behind",
    "load",
    "load_score_model",
    "next_values",
    "tell_if_plain",
    "values_before",
]

_CARD = "trueline.json"


class History(NamedTuple):
    """What later trainings and audits have to know of the trainings that made a model."""

    # Identities (`scorers.identity`) of what gave rewards, costs or labels in any of them.
    judged_by: tuple[str, ...] = ()
    multipliers: Mapping[str, float] = {}  # by cost, as the last training left them
    # Places (`sources.places_of`) of which every prompt was trained on, those that audits draw from as well.
    trained_on: tuple[str, ...] = ()
    chats: bool | None = None  # whether any of them taught it chats; None: not known, as of a model from elsewhere
    rate: float | None = None  # highest learning rate of the last one

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> History:
        """As a model's card tells it."""
        return cls(
            tuple(card.get("judged_by", ())),
            dict(card.get("multipliers", {})),
            tuple(card.get("trained_on", ())),
            card.get("chats"),
            card.get("rate"),
        )

    def taught(
        self, *, judged_by: Iterable[str] = (), trained_on: Iterable[str] = (), chats: bool, rate: float
    ) -> History:
        """After one more training."""
        return self._replace(
            judged_by=tuple(dict.fromkeys((*self.judged_by, *judged_by))),
            trained_on=tuple(dict.fromkeys((*self.trained_on, *trained_on))),
            chats=bool(self.chats) or chats,
            rate=rate,
        )


def judges_behind(models: Iterable[Any]) -> tuple[str, ...]:
    """Identities of what judged the data that models learnt from: their scores are its labels."""
    return tuple(dict.fromkeys(name for model in models for name in getattr(model, "judged_by", ())))


class LanguageModel:
    """A causal language model with its tokenizer."""

    kind: ClassVar[str] = "language-model"

    def __init__(self, model: Any, tokenizer: Any, parent: str | None = None, history: History = History()) -> None:
        """model: a Hugging Face causal model, with adapters or without; parent: the run it was trained from."""
        self.model, self.tokenizer, self.parent, self.history = model, tokenizer, parent, history

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Identities of what it was trained to please: none of these can decide a verdict."""
        return self.history.judged_by

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a reply."""
        return end_tokens(self.model, self.tokenizer)

    @property
    def end(self) -> int:
        """The one that its template ends a reply with."""
        return reply_end(self.tokenizer, self.ends)

    @classmethod
    def of(cls, ref: ModelRef, rng: np.random.Generator) -> LanguageModel:
        """The model a reference names, with its history where it was trained here; see `models.load_model`."""
        loaded = load_model(ref, rng)
        return cls(loaded.model, loaded.tokenizer, history=History.of(_card(Path(ref.name))))

    def reply(
        self, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator, sampler: Sampler | None = None
    ) -> list[Reply]:
        """One reply to each chat."""
        rollout = (sampler or Auto()).sample(self, chats, sampling, rng)
        return replies_of(rollout, self, sampling)

    @torch.inference_mode()
    def log_prob(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[NDArray[np.float64]]:
        """Log-probability of each token of each reply, its end included, given its chat, at temperature 1.

        A reply's text is tokenised anew; of tokens that were sampled `Rollout.log_prob` tells exactly.
        """
        end = self.end
        rows = [encode_reply(self.tokenizer, chat, reply, end) for chat, reply in zip(chats, replies, strict=True)]
        found: list[NDArray[np.float64]] = [np.empty(0)] * len(rows)
        was_training = self.model.training
        self.model.eval()
        for chunk in parts_to_read([len(row.tokens) for row in rows]):
            width = len(rows[chunk[-1]].tokens)
            padded = [[*rows[r].tokens, *[self.tokenizer.pad_token_id] * (width - len(rows[r].tokens))] for r in chunk]
            log_prob = token_log_prob(self.model, torch.tensor(padded, device=self.model.device)).double().cpu().numpy()
            for at, r in enumerate(chunk):
                found[r] = log_prob[at, : len(rows[r].tokens)][np.array(rows[r].learnt)]
        self.model.train(was_training)
        return found

    def tuning(
        self, data: Data, protocol: TuneProtocol, rng: np.random.Generator, root: Path = Path()
    ) -> Iterator[Stage]:
        """Stages of a throw-away copy that is trained further; see `elasticity.tuning`."""
        from trueline.language.elasticity.tuning import tuning

        return tuning(self, data, protocol, rng, root)

    def tuned(self, data: Data, protocol: TuneProtocol, rng: np.random.Generator, root: Path = Path()) -> LanguageModel:
        """A copy of it, trained further; see `elasticity.tuning`."""
        from trueline.language.elasticity.tuning import tuned

        return tuned(self, data, protocol, rng, root)

    def save(self, folder: Path) -> None:
        """A folder that Hugging Face's Auto classes load: adapters are added into the weights of a copy first."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            merged(self.model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / _CARD).write_text(json.dumps({"parent": self.parent, **self.history._asdict()}))


def load(folder: Path) -> LanguageModel:
    """The language model saved in `folder`.  Raises RunError naming what is missing or does not fit."""
    try:
        loaded = load_folder(str(folder))
    except ConfigError as error:
        raise RunError(str(error)) from None
    card = _card(folder)
    return LanguageModel(loaded.model, loaded.tokenizer, card.get("parent"), History.of(card))


class ScoreModel(nn.Module):
    """A language model's body with linear heads: rewards, costs, or values, a number each for every token.

    A head's score at column t reads tokens up to and with t (rewards and costs). Its value at column t reads the tokens
    before t, and is 0 at column 0, before which there is none.
    """

    kind: ClassVar[str] = "score-model"

    def __init__(
        self,
        body: Any,
        tokenizer: Any,
        heads: Sequence[str],
        parent: str | None = None,
        history: History = History(),
        ends: Iterable[int] = (),
    ) -> None:
        """body: a Hugging Face model without an output head; heads: names, such as ("reward", "cost_sum").

        ends: ids besides the tokenizer's eos that end the replies it reads; a body does not say, as its model did.
        Heads start at 0: every score is 0 until it is learnt, whatever the body.
        """
        super().__init__()
        if not heads or len(set(heads)) < len(heads):
            raise ConfigError(f"heads {list(heads)} must be one or more different names. Give each score a name.")
        self.body, self.tokenizer, self.heads, self.parent = body, tokenizer, tuple(heads), parent
        self.history = history
        self.ends = tuple(sorted({int(tokenizer.eos_token_id), *ends}))
        like = next(body.parameters())
        # The heads stay in float32: scores are differences of large sums, and there is one row of weights for each.
        self.linear = nn.Linear(int(body.config.hidden_size), len(self.heads), device=like.device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def of(cls, model: LanguageModel, heads: Sequence[str]) -> ScoreModel:
        """Heads on a copy of a language model's body, adapters added into its weights."""
        plain = merged(model.model)
        body = copy.deepcopy(plain.base_model) if plain is model.model else plain.base_model
        return cls(body, model.tokenizer, heads, model.parent, model.history, model.ends)

    @property
    def end(self) -> int:
        """The token that its template ends a reply with, at which a reply's score is read."""
        return reply_end(self.tokenizer, self.ends)

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Identities of what judged its data: whoever it teaches is taught to please those too."""
        return self.history.judged_by

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.linear.weight.device

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the heads read, [R, L, D], of tokens [R, L] that begin at column 0 and are padded on the right."""
        found: Tensor = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        return found

    def read(self, hidden: Tensor) -> Tensor:
        """Scores [R, L, heads] of hidden states [R, L, D]."""
        scores: Tensor = self.linear(hidden.float())
        return scores

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores [R, L, heads] of tokens [R, L]."""
        return self.read(self.hidden(tokens))

    def values(self, tokens: Tensor) -> Tensor:
        """Values [R, L, heads]: column t is about what follows once tokens 0 … t − 1 are given."""
        return values_before(self(tokens))

    def save(self, folder: Path) -> None:
        """The body in Hugging Face's layout, the heads beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            merged(self.body).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.linear.state_dict().items()}
        save_file(weights, folder / "heads.safetensors")
        card = {"parent": self.parent, "heads": self.heads, "ends": self.ends, **self.history._asdict()}
        (folder / _CARD).write_text(json.dumps(card))


def load_score_model(folder: Path) -> ScoreModel:
    """The score model saved in `folder`.  Raises RunError naming what is missing or does not fit."""
    from transformers import AutoModel, AutoTokenizer

    card = _card(folder)
    try:
        with quiet():
            body = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = ScoreModel(body, tokenizer, card["heads"], card["parent"], History.of(card), card["ends"])
        model.linear.load_state_dict(load_file(folder / "heads.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(f"the score model in {folder} is damaged or of another version: {error}") from None
    return model.eval()


def history_of(folder: Path) -> History:
    """Of the model saved in `folder`, or in the `subject/` of the run in `folder`, without reading its weights."""
    own = folder / "subject"
    return History.of(_card(own if own.is_dir() else folder))


def tell_if_plain(subject: Any) -> None:
    """One line for whoever waits, where a model that learnt nothing but plain text is asked as a chat."""
    if getattr(getattr(subject, "history", None), "chats", None) is False:
        stage("the model learnt plain text alone and is asked as a chat: train it with data.as_chat = true")


def values_before(scores: Tensor) -> Tensor:
    """Values [R, L, heads] from scores: what a head says after token t − 1 is the value before token t."""
    return nn.functional.pad(scores[:, :-1], (0, 0, 1, 0))


def next_values(values: Tensor, sampled: Tensor) -> Tensor:
    """V after token t: values [R, L, heads], sampled [R, L] -> [R, L, heads].

    It is the value before token t + 1, and 0 after a row's last sampled token, whether the reply ended there or was
    cut: a cut reply is not bootstrapped.
    """
    after = nn.functional.pad(values[:, 1:], (0, 0, 0, 1))
    goes_on = nn.functional.pad(sampled[:, 1:], (0, 1)) & sampled
    return torch.where(goes_on[..., None], after, 0.0)


def _card(folder: Path) -> dict[str, Any]:
    path = folder / _CARD
    if not path.is_file():
        return {}  # a plain Hugging Face folder is a language model too
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise RunError(f"{path} is damaged. Put it back, or train the model again.") from None
