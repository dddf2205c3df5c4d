"""Alignment of assembled models: what holds at the first step, what stays frozen, what a stopped run goes on to be."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmlm.data import Record, RecordSet
from mmlm.generation.result import GenerationResult, Usage
from mmlm.training import plan_from_recipe, trainer
from mmlm.training.align import objective_of
from mmlm.training.alignment.config import AlignConfig
from mmlm.training.alignment.reference import trained_parameters
from mmlm.training.alignment.reward_model import RewardModel, learned_reward
from mmlm.training.alignment.rewards import Written
from mmlm.training.trainer import Trainer
from support.alignment import GRPO, KINDS, PPO, asked, drawings, high, pairs, run
from support.families import tokenizer
from support.training_objectives import CASES, added, assert_equal, metrics, png, snapshot, stopping, tiny_model


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(trainer, "plot_losses", lambda *args: None)


def lines(folder: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if "_per_second" not in key} for line in metrics(folder)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, kind):
    """Stopped at a step, of GRPO between two that learn from the same answers; the frozen weights do not move."""
    model = KINDS[kind][1]()
    before, codes = snapshot(model), "drawings" in kind
    trained = {name for name in trained_parameters(model, "added", codes)}
    model, _ = run(kind, tmp_path / "a")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopping(3))
        run(kind, tmp_path / "b")
    again, _ = run(kind, tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert_equal(added(model), added(again))
    after = snapshot(model)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved and moved <= trained


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_recipe_by_rewards_takes_questions_without_preferences(tmp_path, kind):
    (tmp_path / "0.png").write_bytes(png("red"))
    (tmp_path / "data.jsonl").write_text('{"image": "0.png", "question": "what?", "answer": "red"}\n' * 8)
    recipe = tmp_path / "recipe.yaml"
    objective = f"{{kind: {kind}, rewards: {{brief: 1.0}}}}"
    recipe.write_text(f"model: nano\nobjective: {objective}\ndata: {tmp_path}/data.jsonl\noutput: {tmp_path}/run\n")
    assert plan_from_recipe(recipe).model == f"nano is aligned ({kind})"


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_at_the_first_step_a_model_is_its_reference(tmp_path, kind):
    run(kind, tmp_path, steps=1, log_every=1)
    first = lines(tmp_path)[0]["held_out_loss"]
    expected = math.log(2) + 0.1 * lines(tmp_path)[0]["held_out_nats"] if kind == "dpo" else 0.5
    assert first == pytest.approx(expected, abs=1e-5)


def test_it_learns_which_answer_is_better(tmp_path):
    run("dpo", tmp_path, steps=20)
    first, last = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert abs(first["held_out_margin"]) < 1e-5 and last["held_out_margin"] > 0.3
    assert last["held_out_loss"] < first["held_out_loss"] - 0.1


def grpo(model, data: RecordSet, output: Path, **settings):
    objective = replace(GRPO, **{"iterations": 1, "beta": 0.0, **settings})
    config = AlignConfig(steps=1, batch_size=2, accumulation=2)
    return objective_of(model, data, objective, output, None, config, rewards={"high": high})


def test_a_document_is_no_prompt(tmp_path):
    data = RecordSet((*asked(pairs()), *(Record(name, document=("a text",)) for name in "de")))
    with pytest.raises(ValueError, match=r"record 'd' \(1 more of the kind\): a document asks for nothing"):
        grpo(tiny_model(), data, tmp_path)


def test_its_first_gradient_is_that_of_reinforce(tmp_path):
    """−A · ∇ log π, the mean over tokens, with the advantages and the log-probabilities written out."""
    model = tiny_model()
    objective = grpo(model, asked(pairs()), tmp_path)
    parameters = objective.parameters()
    model.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    found = objective.parts(0)
    total = sum(part.count for part in found)
    sum(part.loss() * part.count / total for part in found).backward()
    gradient = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    model.zero_grad()
    kept, loss, tokens = objective.kept, torch.zeros(()), 0
    prompts = [objective.prompts[index] for index in objective.order.batch(0).tolist()]
    for row, ids in enumerate(kept["rollouts.ids"]):
        ids = ids[ids >= 0].tolist()
        prompt = prompts[row // 4]
        example = model.processor.encode([prompt.parts[0], *prompt.parts[1:]])
        example = replace(example, input_ids=[*example.input_ids, *ids])
        example = replace(example, labels=[-100] * (len(example.input_ids) - len(ids)) + ids)
        logits = model(model.processor.collate([example]), [example.media]).logits
        logits[:, model.language_model.vocabulary.end_of_chunk_id + 1 :] = -torch.inf
        values = logits.log_softmax(-1)[torch.arange(len(ids)), ids]
        loss = loss - (values * kept["rollouts.advantages"][row, : len(ids)]).sum()
        tokens += len(ids)
    (loss / tokens).backward()
    assert gradient and kept["rollouts.advantages"].abs().max() > 0.5
    for name, own in gradient.items():
        torch.testing.assert_close(own, parameters[name].grad, rtol=1e-3, atol=1e-6)


def test_ppo_expects_nothing_at_first_and_then_what_is_earned(tmp_path):
    """No value, no distance yet: every token's return is the reward of its answer. The gradient is written out."""
    model = tiny_model()
    settings = AlignConfig(steps=1, batch_size=2, accumulation=2)
    own = replace(PPO, generations=2, lam=1.0)
    objective = objective_of(model, asked(pairs()), own, tmp_path, None, settings, rewards={"high": high})
    parameters = objective.parameters()
    model.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    parts = objective.parts(0)
    total = sum(part.count for part in parts)
    sum(part.loss() * part.count / total for part in parts).backward()
    kept, value = objective.kept, objective.head.bias.grad
    there = kept["rollouts.ids"] >= 0
    earned = torch.stack([(ids[ids >= 0] > 128).float().mean() for ids in kept["rollouts.ids"]])
    torch.testing.assert_close(kept["rollouts.returns"], earned.unsqueeze(1) * there, atol=1e-5, rtol=0)
    advantages = kept["rollouts.advantages"][there]
    every = earned.unsqueeze(1).expand_as(there)[there]
    torch.testing.assert_close(advantages, (every - every.mean()) / every.std(), atol=1e-3, rtol=0)
    # Half the square error of values that are 0, weighed: d/db = −weight × the mean of what was earned.
    assert float(value) == pytest.approx(-own.value_weight * float(every.mean()), rel=1e-4)
    prompts = [objective.prompts[index] for index in objective.order.batch(0).tolist() for _ in range(2)]
    policy = [own for name, own in parameters.items() if not name.startswith("value.") and own.grad is not None]
    found = [parameter.grad.clone() for parameter in policy]
    model.zero_grad()
    values = objective.writer.log_probs(prompts, [ids[ids >= 0].tolist() for ids in kept["rollouts.ids"]])
    (-(values * kept["rollouts.advantages"]).sum() / total).backward()
    assert policy and all(bool(one.any()) for one in found[:1])
    for parameter, gradient in zip(policy, found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("writes", ["text", "image"])
def test_what_was_written_is_scored_as_it_was_chosen(tmp_path, writes):
    """Log-probabilities of one pass are those of the decode loop, less what is never written there."""
    build, data = (tiny_model, pairs()) if writes == "text" else (CASES["codes"].build, drawings())
    model = build()
    objective = grpo(model, asked(data), tmp_path, writes=writes)
    prompts = [objective.prompts[index] for index in (0, 1)]
    rows = objective.writer.write(prompts, 5, 3)
    results, each = [one for row in rows for one in row], [prompt for prompt in prompts for _ in range(3)]
    ids = [list(one.token_ids) for one in results]
    with torch.no_grad():
        found = objective.writer.log_probs(each, ids)
        plain = model.log_probs([p.parts for p in each], ids, codes=writes == "image")
    for row, values, result in zip(found, plain, results, strict=True):
        torch.testing.assert_close(values, torch.tensor(result.log_probs), rtol=0, atol=2e-4)
        kept = row[: len(values)]
        assert (kept >= values - 1e-4).all() and (row[len(values) :] == 0).all() and (kept <= 0).all()
        if writes == "image":  # boundaries are the one thing that may stand there
            assert kept[0] == kept[-1] == 0 and kept[1:-1].any()


def test_of_a_thought_and_its_answer_all_is_scored_but_the_mark_that_was_forced(tmp_path):
    """Without marks of thinking a thought ends in what asks for the answer, here after five tokens at the latest."""
    model = tiny_model()
    objective = grpo(model, asked(pairs()), tmp_path, thinking=5)
    prompts = [objective.prompts[index] for index in (0, 1)]
    results = [one for row in objective.writer.write(prompts, 5, 3) for one in row]
    each, ids = [prompt for prompt in prompts for _ in range(3)], [list(one.token_ids) for one in results]
    with torch.no_grad():
        found = objective.writer.log_probs(each, ids)
    mark = model.processor.markup_ids(" Short answer:")
    for row, own, result in zip(found, ids, results, strict=True):
        assert own[5 : 5 + len(mark)] == mark and result.thinking is not None and "Short answer" not in result.text
        chosen = torch.tensor([*range(5), *range(5 + len(mark), len(own))])
        assert row[5 : 5 + len(mark)].tolist() == [0.0] * len(mark) and len(own) > 5 + len(mark)
        plain = torch.tensor(result.log_probs)[chosen]
        assert (row[chosen] >= plain - 1e-4).all() and (row[chosen] < 0).all()
        assert (row[chosen] <= plain + 0.2).all(), "what is never written holds a small part of all"


def test_thoughts_are_for_texts():
    with pytest.raises(ValueError, match="thinking must be 0 where media are written, not 8"):
        replace(GRPO, writes="image", thinking=8)


def test_figures_of_what_was_written_are_those_of_the_answers(tmp_path):
    """Means over all answers, by hand, and no figure is told twice."""
    objective = grpo(tiny_model(), asked(pairs()), tmp_path, beta=0.1)
    objective.begin()
    objective.parts(0)
    kept, found = objective.kept, objective.figures()
    rewards = torch.tensor([float((row[row >= 0] > 128).double().mean()) for row in kept["rollouts.ids"]]).view(-1, 4)
    assert found["reward"] == pytest.approx(float(rewards.mean()))
    assert found["reward_spread"] == pytest.approx(float(rewards.std(1).mean()), abs=1e-6)
    assert found["length"] == pytest.approx(float((kept["rollouts.ids"] >= 0).sum(1).double().mean()))
    assert found["cut"] == pytest.approx(float((kept["rollouts.ids"][:, -1] >= 0).double().mean()))
    assert found["kl"] == pytest.approx(0, abs=1e-9) and found["entropy"] > 0 and found["flat_groups"] < 1
    assert objective.figures() == {}


def test_the_reference_is_no_second_model(tmp_path):
    """It is as large as what trains, and the frozen tensors are the same ones."""
    model = tiny_model()
    objective = grpo(model, asked(pairs()), tmp_path, beta=0.1)
    copies = sum(copy.numel() for copy in objective.reference.copies.values())
    assert copies == sum(parameter.numel() for parameter in objective.parameters().values())
    assert copies < sum(parameter.numel() for parameter in model.language_model.model.parameters())
    prompts, ids = [objective.prompts[0]], [[101, 102]]
    with torch.no_grad():
        start = objective.writer.log_probs(prompts, ids)
        for parameter in objective.parameters().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
        moved = objective.writer.log_probs(prompts, ids)
        with objective.reference.acting():
            assert torch.equal(objective.writer.log_probs(prompts, ids), start)
        assert torch.equal(objective.writer.log_probs(prompts, ids), moved) and not torch.equal(moved, start)


def test_a_reward_is_read_off_the_last_state_and_saved_beside_the_model(tmp_path):
    """The state is upstream's own, as a model with closed gates is its language model."""
    judge = RewardModel(tiny_model())
    torch.nn.init.normal_(judge.head.weight)
    example = judge.model.processor.encode(["why? "], "because")
    host = judge.model.language_model
    rows = torch.cat(
        [host.model.get_input_embeddings()(torch.tensor(example.input_ids[:-1])), host.added.embedding[:1]]
    )
    assert example.input_ids[-1] == host.vocabulary.end_of_chunk_id == 272
    state = host.model(inputs_embeds=rows[None], output_hidden_states=True).hidden_states[-1][0, -1]
    (found,) = judge.score([["why? "]], ["because"])
    assert found == pytest.approx(float(judge.head(state).detach()), abs=1e-5)
    again = RewardModel.load(judge.save(tmp_path / "judge"), **parts_of(judge.model))
    assert again.score([["why? "]], ["because"]) == [found]
    with pytest.raises(ValueError, match="holds no reward model"):
        RewardModel.load(judge.model.save(tmp_path / "plain"))


def parts_of(model) -> dict:
    return dict(language_model=model.language_model.model, image_encoder=model.encoders["image"], tokenizer=tokenizer())


def test_a_reward_model_tells_better_from_worse_and_rewards_with_it(tmp_path):
    model, _ = run("reward", tmp_path, steps=40, learning_rate=2e-2)
    first, last = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert first["held_out_loss"] == pytest.approx(math.log(2), abs=1e-6) and first["held_out_accuracy"] == 0.5
    assert last["held_out_loss"] < 0.6 and last["held_out_accuracy"] > 0.7
    judge = RewardModel.load(tmp_path / "model", **parts_of(model))
    record = pairs()[0]
    results = [GenerationResult(said, (), (), "stop", Usage(0, 0, 0, 0)) for said in (record.qa[0][1], record.rejected)]
    better, worse = learned_reward(judge)([Written(record, record.texts[0], result) for result in results])
    assert better > worse
