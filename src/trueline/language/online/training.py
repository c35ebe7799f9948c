"""The loop of on-line learning, written once: sample, score, estimate, weigh, update.

Of several processes (`parallel.py`) each draws, scores, reads and learns a share of every step; what they found is put
together in between, so that multipliers, advantages and the order of the replies are the same in all of them.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, S signals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from trueline.core.errors import CheckpointError, ConfigError, Diverged, TruelineError
from trueline.core.files import write_text
from trueline.core.progress import progress, stage
from trueline.core.run import Run, stop_asked
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.language.batches import READ_AT_ONCE, padded
from trueline.language.data_order import DataOrder
from trueline.language.estimators import Grpo, Rloo, token_weights
from trueline.language.forward import learning_mode, plain, token_scores
from trueline.language.models import reference
from trueline.language.online.critic import SharedCritic, last_hidden, learnt_by_itself
from trueline.language.online.losses import kl_loss, parts_of_like_length, policy_loss, reply_log_prob, value_loss
from trueline.language.online.making import Made
from trueline.language.online.settings import Online, OnlinePpo
from trueline.language.optimiser import Optimiser
from trueline.language.parallel import draws_of, span, sum_gradients, sums
from trueline.language.rollout import Chat, Rollout
from trueline.language.sampler import replies_of
from trueline.language.scorers import identity, prompts_of, reference_records, trouble_of
from trueline.language.scores import Scores
from trueline.language.signals import Signals, adapted, episode_cost, signals_of, with_kl
from trueline.language.sources import exposed
from trueline.language.subject import LanguageModel, judges_behind, values_before
from trueline.language.supervised import checkpoint_activations, device_of
from trueline.rl.handlers.constraint import HandlerState, Weights, unconstrained
from trueline.rl.parallel import followed, followers_states, learners, stop_together

__all__ = ["UNSCORED", "Trainer"]

UNSCORED = 5  # steps on end without a single score, after which a training ends: nothing mends itself any more


class _Pass(NamedTuple):
    """One reading of replies by what is learnt, with its gradient; None for what was not read."""

    log_prob: Tensor | None  # [R, L]
    value: Tensor | None  # [R, L, S]


class _Learnt(NamedTuple):
    """What a step learns from, [R, L] each unless said."""

    rollout: Rollout
    signals: Signals
    old_log_prob: Tensor
    advantage: Tensor
    beside: Tensor | None  # log π_ref, where the divergence is a term of the loss
    beta: float
    value: Tensor | None  # [R, L, S] at the rollout
    target: Tensor | None  # [R, L, S]
    ahead: _Pass | None  # of the whole rollout, where one step learns all of it


class Trainer:
    """One training run: what it holds is what a checkpoint stores."""

    def __init__(self, config: Online, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds models and scorers and reads the prompts."""
        self.config, self.run, self.group = config, run, learners()
        torch.set_num_threads(config.learner_threads)
        self.device = device_of(config.device)
        root = run.folder.parent
        made = Made.of(config, inputs, run.rng("model"), root, self.device)
        self.policy, self.reference, self.critic = made.policy, made.reference, made.critic
        self.scorer, self.limited, self.prompts, self.ptx = made.scorer, made.limits, made.asked, made.kept
        self.sampler = config.sampler.open()
        if config.gradient_checkpointing:
            for model in self._learners():
                checkpoint_activations(plain(model))
        self.costs = tuple(self.scorer.costs)
        self.order = self.prompts.order(config.prompts.shuffle, int(run.rng("order").integers(2**31)))
        self.ptx_order = self._ptx_order()
        self.steps = config.steps(self.prompts.epoch)
        self.replies = config.replies
        if self.replies < self.group.size:
            raise ConfigError(
                f"a step has {self.replies} replies for {self.group.size} processes. Start fewer of them, or give a "
                "larger batch_size."
            )
        self.minibatch = config.minibatch or self.replies
        a_step = config.passes * math.ceil(self.replies / self.minibatch)
        self.critic_optimiser: Optimiser | None = None
        self.warmup = 0
        if self.critic is not None and isinstance(config, OnlinePpo):
            self.critic.to(self.device)
            own = learnt_by_itself(config.critic, self.critic).values()
            self.critic_optimiser = Optimiser(config.critic.optimiser, own, max(1, self.steps * a_step))
            self.warmup = config.critic.warmup
        if self.warmup >= self.steps:
            raise ConfigError(
                f"critic.warmup is {self.warmup}, but there are {self.steps} steps, so the policy would never learn. "
                "Give fewer."
            )
        self.optimiser = Optimiser(
            config.optimiser, self.policy.model.parameters(), (self.steps - self.warmup) * a_step
        )
        self.handler_state: HandlerState = {}
        if config.handler is not None:
            self.handler_state = config.handler.start(len(self.costs), self._learnt_multipliers())
        self.beta = config.kl.weight
        self.recent_cost = torch.zeros((0, len(self.costs)), dtype=torch.float64)
        self.step, self.cut, self.missing = 0, 0, 0
        self.unscored = 0  # steps since the last one in which a reply was scored
        self.fresh = torch.ones(self.replies, dtype=torch.bool)  # which replies of a step are to prompts of the data
        self.parent = run.parent()
        run.manifest["inputs"] |= reference_records(config.scorers, root)  # so that a resume finds the same models
        hashes = {role: given["sha256"] for role, given in run.manifest["inputs"].items()}
        self.judged_by = (
            *(name for one in config.scorers for name in identity(one, hashes)),
            *judges_behind(made.judges),  # their scores are the labels that they learnt
        )

    def _learners(self) -> list[Any]:
        """The Hugging Face models that are learnt: the policy, and the body of a critic that has its own."""
        own = [] if self.critic is None or self.shared else [self.critic.body]
        return [self.policy.model, *own]

    @property
    def shared(self) -> bool:
        """Whether the critic reads the policy's hidden states."""
        return isinstance(self.config, OnlinePpo) and isinstance(self.config.critic, SharedCritic)

    def _learnt_multipliers(self) -> Tensor | None:
        """Of the same costs, as the training that is gone on with left them."""
        known = self.policy.history.multipliers
        if set(known) != set(self.costs):
            return None
        return torch.tensor([known[name] for name in self.costs], dtype=torch.float64)

    def _ptx_order(self) -> DataOrder | None:
        if self.config.ptx is None:
            return None
        data, seed = self.config.ptx.data, int(self.run.rng("ptx").integers(2**31))
        return DataOrder([len(items) for items in self.ptx], data.weights, data.shuffle, seed)

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, besides the run's streams."""
        state: dict[str, Any] = {
            "weights": {name: p.detach() for name, p in self.policy.model.named_parameters() if p.requires_grad},
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.state_dict(),
            "handler": dict(self.handler_state),
            "recent_cost": self.recent_cost,
            "beta": self.beta,
            "step": self.step,
            "cut": self.cut,
            "missing": self.missing,
            "unscored": self.unscored,
            "prompts": self.prompts.sha256,
        }
        if self.critic_optimiser is not None:
            state["critic"] = {name: p.detach() for name, p in self._of_critic().items()}
            state["critic_optimiser"] = self.critic_optimiser.state_dict()
        if self.ptx_order is not None:
            state["ptx"] = self.ptx_order.state_dict()
        if self.group.size > 1:
            state["followers"] = followers_states(self.group, self.run, {})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        if state["prompts"] != self.prompts.sha256:
            raise CheckpointError(
                f"the prompts of run {self.run.id} changed since it began. Put the rows back, or start the run again."
            )
        with torch.no_grad():
            for name, p in self.policy.model.named_parameters():
                if p.requires_grad:
                    p.copy_(state["weights"][name])
            for name, p in self._of_critic().items():
                p.copy_(state["critic"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.critic_optimiser is not None:
            self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.order.load_state_dict(state["order"])
        if self.ptx_order is not None:
            self.ptx_order.load_state_dict(state["ptx"])
        self.handler_state = dict(state["handler"])
        self.recent_cost, self.beta = state["recent_cost"], float(state["beta"])
        self.step, self.cut, self.missing = int(state["step"]), int(state["cut"]), int(state["missing"])
        self.unscored = int(state["unscored"])

    def _of_critic(self) -> dict[str, Any]:
        if self.critic is None or not isinstance(self.config, OnlinePpo):
            return {}
        return dict(learnt_by_itself(self.config.critic, self.critic))

    # --- steps ---

    def train(self) -> LanguageModel:
        """All steps, then the policy.  Raises TruelineError where there was nothing to learn for UNSCORED steps."""
        config = self.config
        self.run.manifest["data"] = self.prompts.sha256
        saved = self.group.from_first(self.run.restore())
        if saved is not None:
            self.load_state_dict(followed(self.run, saved, self.group))
        write_limits(self.run, {f"train/{name}": limit for name, limit in self.limited.items()})
        if self.prompts.dropped:
            stage(f"left out {self.prompts.dropped} prompts that fill the context")
        with progress(self.steps, self.run.manifest["name"]) as bar:
            bar.start_at(self.step)
            while self.step < self.steps:
                bar.advance(1, self.one_step())
                self._check_scored()
                last = self.step == self.steps
                if self.step % config.eval_steps == 0 or last:
                    self.run.offer(self.step, self.subject)
                stop_together(self.group, self.run)
                if self.step % config.checkpoint_steps == 0 or last or stop_asked():
                    self.run.save(self.step, self.state_dict())
        if self.group.leads:
            self._show()
        return self.subject()

    def subject(self) -> LanguageModel:
        """The policy as it stands; it shares its weights with the training."""
        self.policy.model.eval()
        before = self.policy.history
        multipliers = dict(before.multipliers)
        if self.config.handler is not None:
            multipliers = dict(zip(self.costs, self.handler_state["multiplier"].tolist(), strict=True))
        data = (self.config.prompts, *(() if self.config.ptx is None else (self.config.ptx.data,)))
        trained_on = [path for one in data for path in exposed(one, self.run.folder.parent)]
        history = before.taught(judged_by=self.judged_by, trained_on=trained_on, chats=True)
        history = history._replace(multipliers=multipliers)
        return LanguageModel(self.policy.model, self.policy.tokenizer, self.parent, history)

    def one_step(self) -> str:
        """Sample, score, weigh, learn.  Returns a note for whoever waits; raises Diverged."""
        config = self.config
        self.policy.model.eval()
        places = self.order.take(config.batch_size)
        chats = [self.prompts.chats[place.source][place.row] for place in places for _ in range(config.samples)]
        # Constraints are steered by fresh prompts: those that failed an audit cost more than the average.
        failed = len(self.prompts.chats) - 1 if config.findings else -1
        self.fresh = torch.tensor([place.source != failed for place in places for _ in range(config.samples)])
        rollout, scores = self._sampled(chats)
        found, kl = self._learnt(rollout, scores)
        figures = self._passes(found)
        self.step += 1
        note = self._log(rollout, scores, kl, figures)
        if self.step % config.completion_steps == 0 or self.step == self.steps:
            self._write_down(rollout, scores)
        return note

    def _check_scored(self) -> None:
        if self.unscored < min(UNSCORED, self.steps):
            return
        trouble = trouble_of(self.scorer)
        raise TruelineError(
            f"no reply of the last {self.unscored} steps could be scored"
            + (f"; the last answer of an endpoint was: {trouble}. " if trouble else ". ")
            + f"Mend what scores, then go on with `trueline resume {self.run.id}`."
        )

    @torch.no_grad()
    def _sampled(self, chats: Sequence[Chat]) -> tuple[Rollout, Scores]:
        """A reply to each chat, and its scores; of several processes each draws and scores its own, and all know all.

        A reply is decided by its own row of the stream's numbers (sampler.py), so that shares change no reply.
        """
        sampling, draws, judging = self.config.sampling, self.run.rng("sample"), self.run.rng("score")
        own = span(self.group, len(chats))
        with draws_of(self.group, draws, own, len(chats), sampling.max_tokens):
            rollout = self.sampler.sample(self.policy, chats[own], sampling, draws)
        with draws_of(self.group, judging, own, len(chats), 1):
            scores = self.scorer.score(rollout, judging)
        if self.group.size == 1:
            return rollout, scores
        parts = self.group.gathered((_moved(rollout, "cpu"), _moved(scores, "cpu")))
        rollout = _moved(_joined([part for part, _ in parts], chats, self.policy.tokenizer.pad_token_id), self.device)
        width = rollout.tokens.shape[1]
        reward, cost = (
            torch.cat([_widened(getattr(one, name), width, 0.0) for _, one in parts]) for name in ("reward", "cost")
        )
        return rollout, _moved(Scores(reward, cost, torch.cat([one.missing for _, one in parts])), self.device)

    def _learnt(self, rollout: Rollout, scores: Scores) -> tuple[_Learnt, Tensor | None]:
        """Advantages under the weights as the last replies' costs leave them; and the divergence of each reply [E]."""
        config, old, beta = self.config, self._old(rollout), self.beta
        kl = kl_reply = in_loss = None
        if config.needs_reference:
            beside = self._beside(rollout)
            kl, in_loss = (old - beside, None) if config.kl.is_signal else (None, beside)
            kl_reply = torch.where(rollout.sampled, old - beside, 0.0).sum(dim=1)[~scores.missing]
            if config.kl.adaptive is not None and len(kl_reply):
                self.beta = adapted(self.beta, config.kl.adaptive, float(kl_reply.mean()), len(kl_reply))
        signals = signals_of(
            rollout,
            scores,
            kl,
            credit=self.scorer.credit,
            cut_penalty=config.cut_penalty,
            score_clip=config.score_clip,
        )
        weights = self._weights(scores)
        weights = with_kl(weights, beta) if config.kl.is_signal else weights
        if self.critic is None:
            group: Rloo | Grpo = config.estimator  # type: ignore[attr-defined]  # what has no critic compares
            advantage = group.advantage(signals, rollout.group, weights)
            return _Learnt(rollout, signals, old, advantage, in_loss, beta, None, None, None), kl_reply
        assert isinstance(config, OnlinePpo)
        ahead = self._ahead(rollout) if config.learnt_at_once and self.step >= self.warmup else None
        value = self._values(rollout) if ahead is None else ahead.value
        assert value is not None
        value = self._of_all(value.detach().clone())
        estimates = config.estimator.estimates(signals, value)
        advantage = config.estimator.mixed(signals, estimates, weights)
        return _Learnt(rollout, signals, old, advantage, in_loss, beta, value, estimates.target, ahead), kl_reply

    def _weights(self, scores: Scores) -> Weights:
        """After one step of the multipliers on the raw costs of the last replies."""
        handler = self.config.handler
        if handler is None:
            return unconstrained(len(self.costs))
        told = ~scores.missing.cpu()
        fresh = episode_cost(scores).double().cpu()[self.fresh[told]]
        window: int = self.config.window  # type: ignore[attr-defined]  # settings with a handler have it
        self.recent_cost = torch.cat([self.recent_cost, fresh])[-window:]
        if self.step >= self.warmup and len(fresh):
            limits = torch.tensor(list(self.limited.values()), dtype=torch.float64)
            self.handler_state = handler.update(self.handler_state, self.recent_cost, limits)
        return handler.weights(self.handler_state)

    # --- reading ---

    def _old(self, rollout: Rollout) -> Tensor:
        """log π of what was drawn, in the trainer's own arithmetic."""
        return self._log_prob(self.policy.model, rollout) if self.config.reads_again else rollout.log_prob

    def _beside(self, rollout: Rollout) -> Tensor:
        """log π_ref of it."""
        if self.reference is not None:
            return self._log_prob(self.reference, rollout)
        with reference(self.policy.model) as model:
            return self._log_prob(model, rollout)

    def _shares(self, rollout: Rollout, of: Tensor, **cut: int | None) -> Iterator[tuple[Tensor, int]]:
        """This process's share of some rows, in parts of like length, and how wide each part is."""
        own = self.group.share(of)
        length = rollout.attended.sum(dim=1)[own]
        for part in parts_of_like_length(length, **cut):
            yield own[part], int(length[part].max())

    @torch.no_grad()
    def _log_prob(self, model: Any, rollout: Rollout) -> Tensor:
        """Of every reply, under a model that only reads."""
        found = torch.zeros_like(rollout.log_prob)
        for rows, width in self._shares(rollout, _all(rollout), tokens=READ_AT_ONCE):
            read = rollout.tokens[rows, :width], rollout.sampled[rows, :width]
            found[rows, :width] = self._reply_log_prob(model, *read)
        return self._of_all(found)

    def _reply_log_prob(self, model: Any, tokens: Tensor, sampled: Tensor) -> Tensor:
        """Of each sampled token, as what learns computes it: [R, L], [R, L] -> [R, L], in float32."""
        with self._precision():
            return reply_log_prob(model, tokens, sampled, self.config.sampling.temperature)

    def _value(self, tokens: Tensor) -> Tensor:
        """[R, L, S] by a critic that reads by itself; its heads compute in float32 whatever its body does."""
        assert self.critic is not None
        with self._precision():
            hidden = self.critic.hidden(tokens)
        return values_before(self.critic.read(hidden))

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.config.autocast else nullcontext()

    def _of_all(self, found: Tensor) -> Tensor:
        """What every process found for its own rows, which is 0 in the others."""
        self.group.add([found])
        return found

    @torch.no_grad()
    def _values(self, rollout: Rollout) -> Tensor:
        """[R, L, S] by the critic, 0 in the rows of other processes."""
        assert self.critic is not None
        self.critic.eval()
        found = rollout.log_prob.new_zeros((*rollout.tokens.shape, len(self.critic.heads)))
        for rows, width in self._shares(rollout, _all(rollout), tokens=READ_AT_ONCE):
            found[rows, :width] = self._value(rollout.tokens[rows, :width])
        return found

    def _ahead(self, rollout: Rollout) -> _Pass:
        """The pass that the only step on this rollout learns from.

        It is made before the loss is known, since it also says what the replies were worth at the rollout.
        """
        assert self.critic is not None
        self._learning()
        log_prob = torch.zeros_like(rollout.log_prob)
        value = log_prob.new_zeros((*log_prob.shape, len(self.critic.heads)))
        for rows, width in self._shares(rollout, _all(rollout)):
            tokens, sampled = rollout.tokens[rows, :width], rollout.sampled[rows, :width]
            if self.shared:
                read = self._read(tokens, sampled)
                log_prob[rows, :width], value[rows, :width] = read.log_prob, read.value  # type: ignore[assignment]
            else:
                value[rows, :width] = self._value(tokens)
        return _Pass(log_prob if self.shared else None, value)

    def _read(self, tokens: Tensor, sampled: Tensor) -> _Pass:
        """The policy's pass over some replies, with values where the critic reads its hidden states."""
        model = self.policy.model
        if not self.shared:
            return _Pass(self._reply_log_prob(model, tokens, sampled), None)
        assert self.critic is not None
        with last_hidden(model) as seen:
            log_prob = self._reply_log_prob(model, tokens, sampled)
        return _Pass(log_prob, values_before(self.critic.read(seen[-1])))

    # --- learning ---

    def _learning(self) -> None:
        for model in self._learners():
            learning_mode(model, False)

    def _passes(self, found: _Learnt) -> dict[str, float]:
        """Passes over the replies in random order; returns means over the last of them."""
        config, kept = self.config, found.signals.kept
        batches = math.ceil(self.replies / self.minibatch)
        totals: dict[str, float] = {}
        self._learning()
        for _ in range(config.passes):
            totals = {"policy_loss": 0.0, "value_loss": 0.0, "ptx_loss": 0.0, "clipped": 0.0, "kl": 0.0}
            order = torch.as_tensor(self.run.rng("update").permutation(self.replies), device=kept.device)
            for at in range(0, self.replies, self.minibatch):
                rows = order[at : at + self.minibatch]
                if not kept[rows].any():
                    continue
                if self.critic is not None and (not self.shared or self.step < self.warmup):
                    self._value_step(found, rows, totals)
                if self.step >= self.warmup:
                    self._policy_step(found, rows, batches, totals)
        means = sums(self.group, [total / batches for total in totals.values()])
        figures = dict(zip(totals, means, strict=True))
        for name, there in (("value_loss", self.critic is not None), ("ptx_loss", config.ptx is not None)):
            if not there:
                del figures[name]
        return figures

    def _parts(self, found: _Learnt, rows: Tensor) -> Iterator[tuple[Tensor, int]]:
        """This process's share of a minibatch, as it is learnt: whole where it was read ahead, else cut up."""
        if found.ahead is None:
            yield from self._shares(found.rollout, rows, rows=self.config.micro_batch)
            return
        own = self.group.share(rows.sort().values)  # as it was read: a step on all replies knows no order
        if len(own):
            yield own, found.rollout.tokens.shape[1]

    def _policy_step(self, found: _Learnt, rows: Tensor, batches: int, totals: dict[str, float]) -> None:
        """One step of the policy on a minibatch, with the values that its body is shared with."""
        config, rollout, kept = self.config, found.rollout, found.signals.kept
        weight = torch.zeros_like(found.advantage)
        if config.loss_type == "dapo":
            # The mean is over the tokens of the whole step, so that short minibatches weigh less.
            weight[rows] = kept[rows].float() * batches / kept.sum()
        else:
            weight[rows] = token_weights(kept[rows], config.loss_type, config.sampling.max_tokens)
        tokens, losses = max(1.0, float(kept[rows].sum())), {"policy_loss": 0.0, "value_loss": 0.0, "ptx_loss": 0.0}
        for part, width in self._parts(found, rows):
            cut = (part, slice(0, width))
            if not kept[cut].any():
                continue
            if found.ahead is not None and self.shared:
                read = _Pass(*(None if x is None else x[cut] for x in found.ahead))
            else:
                read = self._read(rollout.tokens[cut], kept[cut])
            assert read.log_prob is not None
            log_prob = torch.where(kept[cut], read.log_prob, 0.0)
            old = torch.where(kept[cut], found.old_log_prob[cut], 0.0)
            loss = policy_loss(log_prob, old, found.advantage[cut], weight[cut], config.clip)
            if found.beside is not None:
                assert config.kl.estimator != "k1"
                beside = torch.where(kept[cut], found.beside[cut], 0.0)
                loss = loss + found.beta * kl_loss(log_prob, old, beside, weight[cut], config.kl.estimator)
            losses["policy_loss"] += loss.item()
            if read.value is not None:
                assert isinstance(config, OnlinePpo)
                assert isinstance(config.critic, SharedCritic)
                about_value = self._value_loss(found, read.value, cut) / tokens
                losses["value_loss"] += about_value.item()
                loss = loss + config.critic.weight * about_value
            loss.backward()
            with torch.no_grad():
                ratio = (log_prob - old)[kept[cut]].exp()
                totals["clipped"] += float(((ratio - 1.0).abs() > config.clip).sum()) / tokens
                totals["kl"] += float((ratio - 1.0 - ratio.log()).sum()) / tokens
        if self.ptx_order is not None:
            extra = self._ptx_loss()
            if extra is not None:
                extra.backward()
                losses["ptx_loss"] = extra.item()
        for name, total in losses.items():
            totals[name] += total
        self._stepped(self.optimiser, sum(losses.values()), "the policy's loss")
        if self.shared and self.critic_optimiser is not None:
            self._stepped(self.critic_optimiser, losses["value_loss"], "the critic's loss")

    def _ptx_loss(self) -> Tensor | None:
        """weight·(mean −log π) of the next rows of text, this process's share of it; None where it has none."""
        assert self.config.ptx is not None
        assert self.ptx_order is not None
        places = self.ptx_order.take(self.config.ptx.batch_size)
        rows = [self.ptx[place.source][place.row].rows[0] for place in places]
        whole, own = sum(float(row.weight.sum()) for row in rows), rows[self.group.rank :: self.group.size]
        if not own:
            return None
        batch = padded(own, self.policy.tokenizer.pad_token_id).to(self.device)
        with self._precision():
            log_prob = token_scores(self.policy.model, batch).log_prob
        return -self.config.ptx.weight * (log_prob * batch.weight).sum() / whole

    def _value_step(self, found: _Learnt, rows: Tensor, totals: dict[str, float]) -> None:
        """One step of what the critic learns by itself: all of its own body, or the heads on the policy's."""
        assert self.critic is not None
        assert self.critic_optimiser is not None
        tokens, total = float(found.signals.kept[rows].sum()), 0.0
        for part, width in self._parts(found, rows):
            cut = (part, slice(0, width))
            if found.ahead is not None and found.ahead.value is not None:
                value = found.ahead.value[cut]
            elif self.shared:
                with torch.no_grad(), self._precision():
                    hidden = self.critic.hidden(found.rollout.tokens[cut])
                value = values_before(self.critic.read(hidden))
            else:
                value = self._value(found.rollout.tokens[cut])
            loss = self._value_loss(found, value, cut) / tokens
            loss.backward()
            total += loss.item()
        totals["value_loss"] += total
        self._stepped(self.critic_optimiser, total, "the critic's loss")

    def _value_loss(self, found: _Learnt, value: Tensor, cut: tuple[Tensor, slice]) -> Tensor:
        """Summed over the tokens of some rows."""
        assert found.value is not None
        assert found.target is not None
        assert isinstance(self.config, OnlinePpo)
        clip = self.config.critic.value_clip
        return value_loss(value, found.value[cut], found.target[cut], found.signals.kept[cut], clip)

    def _stepped(self, optimiser: Optimiser, loss: float, what: str) -> None:
        """One step on the sum of all processes' gradients."""
        (loss,) = sums(self.group, [loss])
        if not math.isfinite(loss):
            raise Diverged(self.step, what, self.run.last_checkpoint)
        sum_gradients(self.group, optimiser.parameters)
        norm = float(optimiser.step())
        if not math.isfinite(norm):
            raise Diverged(self.step, what.replace("loss", "gradient"), self.run.last_checkpoint)

    # --- telling ---

    def _log(self, rollout: Rollout, scores: Scores, kl: Tensor | None, figures: Mapping[str, float]) -> str:
        scored = ~scores.missing
        self.cut += int((~rollout.ended).sum())
        self.missing += int(scores.missing.sum())
        self.unscored = 0 if scored.any() else self.unscored + 1
        scalars = {f"update/{name}": value for name, value in figures.items()}
        scalars["train/length"] = float(rollout.sampled.sum(dim=1).float().mean())
        scalars["train/cut"] = float((~rollout.ended).float().mean())
        scalars["train/missing"] = float(scores.missing.float().mean())
        scalars |= {"train/total_cut": float(self.cut), "train/total_missing": float(self.missing)}
        note = "nothing was scored"
        if scored.any():  # without a reply that was scored there is no estimate, and none is logged
            reward = float(scores.reward.sum(dim=1)[scored].mean())
            cost = episode_cost(scores).mean(dim=0).tolist()
            scalars["train/reward"] = reward
            scalars |= {f"train/{name}": value for name, value in zip(self.costs, cost, strict=True)}
            note = f"reward {reward:.2f}" + (" cost " + " ".join(f"{x:.2f}" for x in cost) if cost else "")
        if kl is not None:
            scalars["train/beta"] = self.beta
            if len(kl):
                scalars["train/kl"] = float(kl.mean())
        if self.config.handler is not None:
            for name, multiplier in zip(self.costs, self.handler_state["multiplier"].tolist(), strict=True):
                scalars[f"constraint/multiplier_{name}"] = multiplier
        self.run.log(self.step, **scalars)
        return note

    def _write_down(self, rollout: Rollout, scores: Scores) -> None:
        """Some replies of this step, with what they earned and cost."""
        n = min(self.config.completions, len(rollout.tokens))
        if n:
            some = Rollout(*(getattr(rollout, name)[:n] for name in Rollout.__slots__))
            first = Scores(scores.reward[:n], scores.cost[:n], scores.missing[:n])
            self.run.write_json(f"completions/step-{self.step:06d}.json", self._told(some, first))

    def _told(self, rollout: Rollout, scores: Scores) -> list[dict[str, Any]]:
        reward, cost = scores.reward.sum(dim=1).tolist(), scores.cost.sum(dim=1).tolist()
        texts = zip(
            prompts_of(rollout, self.policy), replies_of(rollout, self.policy, self.config.sampling), strict=True
        )
        return [
            {
                "prompt": prompt,
                "reply": reply.text,
                "ended": reply.ended,
                "reward": None if scores.missing[r] else reward[r],
                "cost": None if scores.missing[r] else dict(zip(self.costs, cost[r], strict=True)),
            }
            for r, (prompt, reply) in enumerate(texts)
        ]

    @torch.no_grad()
    def _show(self) -> None:
        """Replies to the first prompts of each source, for whoever compares trainings on the same data."""
        own = self.prompts.chats[:-1] if self.config.findings else self.prompts.chats
        each = math.ceil(self.config.completions / len(own))
        asked = [one for source in own for one in source[:each]]
        if not asked:
            return
        self.policy.model.eval()
        rollout = self.sampler.sample(self.policy, asked, self.config.sampling, self.run.rng("show"))
        told = self._told(rollout, self.scorer.score(rollout, self.run.rng("show")))
        write_text(self.run.artefact("media/replies.txt"), "\n\n".join(map(_in_words, told)) + "\n")
        shown = {"kind": "text", "file": "replies.txt", "caption": "Replies to the first prompts of the training data."}
        self.run.write_json("media/list.json", [{**shown, "alt": "prompts, each with a reply and its scores"}])


def _in_words(told: Mapping[str, Any]) -> str:
    scored = "not scored"
    if told["reward"] is not None:
        scored = ", ".join(f"{name} {x:.2f}" for name, x in {"reward": told["reward"], **told["cost"]}.items())
    return f"› {told['prompt']}\n{told['reply'] or '(nothing)'}{'' if told['ended'] else ' …'}\n[{scored}]"


# --- rows of several processes ---


def _all(rollout: Rollout) -> Tensor:
    return torch.arange(len(rollout.tokens), device=rollout.tokens.device)


def _moved(found: Any, device: torch.device | str) -> Any:
    """A rollout or scores on another device."""
    return type(found)(*(getattr(found, name).to(device) for name in type(found).__slots__))


def _widened(x: Tensor, width: int, value: float) -> Tensor:
    """[R, L, ...] -> [R, width, ...]."""
    return pad(x, (*(0, 0) * (x.ndim - 2), 0, width - x.shape[1]), value=value)


def _joined(parts: Sequence[Rollout], chats: Sequence[Chat], pad_token: int) -> Rollout:
    """The rollouts of shares of the chats as one; equal chats are one group, in order, as in a single rollout."""
    width = max(part.tokens.shape[1] for part in parts)
    known: dict[Chat, int] = {}
    return Rollout(
        tokens=torch.cat([_widened(part.tokens, width, pad_token) for part in parts]),
        attended=torch.cat([_widened(part.attended, width, False) for part in parts]),
        sampled=torch.cat([_widened(part.sampled, width, False) for part in parts]),
        log_prob=torch.cat([_widened(part.log_prob, width, 0.0) for part in parts]),
        group=torch.tensor([known.setdefault(one, len(known)) for one in chats]),
        ended=torch.cat([part.ended for part in parts]),
    )
