"""Thoughts before answers: their budget, their marks, and what of a text is which."""

import functools
import json

import pytest
import torch

import mmlm
from mmlm.cli import main
from mmlm.generation.options import GenerationOptions
from mmlm.prompting.parts import Markup
from mmlm.prompting.thinking import Opening, ThinkingMarks, begins_thinking, marks_of, opened
from mmlm.serving.engine import Engine
from mmlm.serving.options import EngineOptions
from mmlm.tasks.thinking import INSTRUCTION, STEPS, THOUGHTS
from support import parts
from support.bigrams import END, bigrams, tokenizer

THOUGHT = "ABCDEFGHIJ"
STEPS_OF_TABLE = dict(zip(THOUGHT, THOUGHT[1:])) | {"4": ".", ".": END}
CONTROL = ("<think>", "</think>")
KINDS = {
    "a control token": (None, {"<think>": "A", "J": "</think>", "</think>": "4"}, CONTROL),
    "spelled": (ThinkingMarks("{", "}=;"), {"{": "A", "J": "}", "}": "=", "=": ";", ";": "4"}, ()),
    "words": (ThinkingMarks("", "so:", " "), {"!": "A", "J": "s", "s": "o", "o": ":", ":": "4"}, ()),
}
"""Marks, how a table goes on after them, and control tokens: a thought of ten tokens, then "4." and an end."""
PROMPT = ["what is it!"]


@functools.cache
def model_of(kind: str) -> mmlm.MultimodalLM:
    _, table, special = KINDS[kind]
    return bigrams(STEPS_OF_TABLE | table, tokenizer(special))


def thinking(kind: str, budget: int | bool = True, **options) -> dict:
    return dict(thinking=budget, thinking_marks=KINDS[kind][0], max_new_tokens=4, **options)


WAYS = {
    "greedy": lambda model, **own: [model.generate(PROMPT, **own)],
    "a batch": lambda model, **own: model.generate([PROMPT, ["and this, which is longer!"]], **own),
    "samples": lambda model, **own: model.generate(PROMPT, do_sample=True, num_return_sequences=3, seed=1, **own),
    "beams": lambda model, **own: [model.generate(PROMPT, num_beams=3, **own)],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("budget", [0, 1, 7, 10, 11, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_thought_has_at_most_its_budget_and_an_answer_always_follows(kind, budget, way):
    length = 10 if budget is True else min(budget, 10)
    mark = {"a control token": 1, "spelled": 3, "words": 3}[kind]
    is_bridged = kind == "words" and budget is not True and budget <= 10  # at 11, the mark was begun
    for result in WAYS[way](model_of(kind), **thinking(kind, budget)):
        assert (result.thinking, result.text, result.answer, str(result)) == (THOUGHT[:length], "4.", "4.", "4.")
        assert result.finish_reason == "stop"
        assert result.usage.thinking_tokens == length + mark + is_bridged
        assert result.usage.generated_tokens == result.usage.thinking_tokens + 3 == len(result.token_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_the_thought_and_then_the_answer(kind):
    for budget in (0, 7, True):
        running = model_of(kind).stream(PROMPT, **thinking(kind, budget))
        thought, answer = list(running.thinking), list(running)
        assert ("".join(thought), "".join(answer)) == (running.result.thinking, running.result.text)
        assert len(thought) == len(running.result.thinking or "")  # each as it came
    running = model_of(kind).stream(PROMPT, **thinking(kind))
    assert "".join(running) == "4." and running.result.thinking == THOUGHT and not list(running.thinking)


def test_the_limit_of_tokens_counts_the_answer_alone():
    for way in ("greedy", "samples", "beams"):
        for budget, limit in ((3, 1), (True, 2)):
            options = thinking("spelled", budget) | dict(max_new_tokens=limit)
            for result in WAYS[way](model_of("spelled"), **options):
                assert (result.text, result.finish_reason) == ("4."[:limit], "length")
                assert len(result.thinking) == (3 if budget == 3 else 10)


def test_strings_that_end_a_text_begin_after_the_thought():
    for way in ("greedy", "samples", "beams"):
        for result in WAYS[way](model_of("spelled"), **thinking("spelled", stop=["C", "."])):
            assert (result.thinking, result.text, result.finish_reason) == (THOUGHT, "4", "stop")


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_model_would_end_in_its_thought_the_thought_ends(kind):
    marks, table, special = KINDS[kind]
    model = bigrams(STEPS_OF_TABLE | table | {"D": {END: 0.9, "E": 0.1}}, tokenizer(special))
    for result in [*WAYS["greedy"](model, **thinking(kind, 12)), WAYS["samples"](model, **thinking(kind, 12))[0]]:
        assert (result.thinking, result.text) == ("ABCD", "4.")
    (found,) = WAYS["beams"](model, **thinking(kind, 12))  # which have another way to go on
    assert (found.thinking, found.text) == (THOUGHT, "4.")


@pytest.mark.parametrize("kind", KINDS)
def test_no_second_mark_follows_one_that_was_forced(kind):
    marks, table, special = KINDS[kind]
    close = "</think>" if marks is None else marks.close
    last, first = ("</think>", "</think>") if marks is None else (close[-1], close[0])
    model = bigrams(STEPS_OF_TABLE | table | {last: {first: 0.6, "4": 0.4}}, tokenizer(special))
    for way in ("greedy", "samples", "beams"):
        for result in WAYS[way](model, **thinking(kind, 5) | dict(max_new_tokens=12)):
            written = model.processor.decode_marked(result.token_ids)
            assert result.thinking == "ABCDE" and written.count(close) == 1, written


def test_what_must_come_comes_though_it_repeats():
    """A processor that forbids what was said before takes away neither the mark nor all choice."""
    options = thinking("spelled", 4, no_repeat_ngram_size=2)
    shown = ["{ABCD}=;4. and "]
    for more in ({}, dict(num_beams=2), dict(do_sample=True, seed=1)):
        result = model_of("spelled").generate([*shown, *PROMPT], **options, **more)
        assert "}=;" in model_of("spelled").processor.decode_marked(result.token_ids)


# Laws, on models of many families


FAMILIES = ["gpt2", "llama", "qwen3", "gemma3", "phi", "bloom", "lfm2"]


@functools.cache
def random_model(family: str) -> mmlm.MultimodalLM:
    return parts.build(family, tokenizer=tokenizer(CONTROL))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thought_is_what_the_model_writes_freely_and_the_mark_is_as_if_it_were_its_own(family):
    model = random_model(family)
    prompts, (mark,) = parts.prompts(), model.processor.markup_ids("</think>")
    ends = {mark, *model.language_model.stop_ids}
    free = [[*prompt, Markup("<think>")] for prompt in prompts]
    for more in (dict(), dict(do_sample=True, seed=4, top_k=40)):
        plain = model.generate(free, max_new_tokens=9, **more)
        thought = model.generate(prompts, thinking=9, max_new_tokens=5, **more)
        for own, other, prompt in zip(thought, plain, free, strict=True):
            length = next((place for place, token in enumerate(other.token_ids) if token in ends), 9)
            assert own.token_ids[: length + 1] == (*other.token_ids[:length], mark)
            (expected,) = model.log_probs([prompt], [own])
            assert torch.tensor(own.log_probs).sub(expected).abs().max() < 1e-4
    for prompt, own in zip(prompts, model.generate(prompts, thinking=9, max_new_tokens=5), strict=True):
        alone = model.generate(prompt, thinking=9, max_new_tokens=5)
        assert (alone.token_ids, alone.thinking, alone.text) == (own.token_ids, own.thinking, own.text)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_beside_others_a_request_thinks_as_alone(family):
    model = random_model(family)
    asked = [
        (prompt, dict(max_new_tokens=5, **more))
        for prompt in parts.prompts()
        for more in (
            dict(thinking=7), dict(thinking=0, stop=["a"]), {},
            dict(thinking=4, do_sample=True, seed=2, num_return_sequences=2),
        )
    ]  # fmt: skip
    with Engine(model, EngineOptions(max_rows=6)) as engine:
        tickets = [engine.submit(prompt, GenerationOptions(**own)) for prompt, own in asked]
        for (prompt, own), ticket in zip(asked, tickets, strict=True):
            alone = model.generate(prompt, **own)
            for result, expected in zip(ticket.results(60), alone if isinstance(alone, list) else [alone], strict=True):
                assert (result.token_ids, result.thinking, result.text) == (
                    expected.token_ids, expected.thinking, expected.text,
                )  # fmt: skip
                assert result.usage == expected.usage and result.finish_reason == expected.finish_reason


# Which marks, and whose words


CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\nTAIL{% endif %}"
)
ON_BY_DEFAULT = CHATML.replace(
    "TAIL", "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
OFF_BY_DEFAULT = CHATML.replace("TAIL", "{% if thinking %}<think>\n{% else %}</think>{% endif %}")
ALWAYS = CHATML.replace("TAIL", "<think>\n")
PLAIN = CHATML.replace("TAIL", "")
GPT = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>")


@pytest.mark.parametrize(
    ("special", "added", "template", "expected"),
    [
        (CONTROL, (), None, ThinkingMarks()),
        ((), CONTROL, None, ThinkingMarks()),  # control tokens that are not marked as special
        (("[THINK]", "[/THINK]"), (), None, ThinkingMarks("[THINK]", "[/THINK]")),
        (("<think>",), (), None, None),  # without an end
        (GPT, (), None, ThinkingMarks("<|channel|>analysis<|message|>",
                                      "<|end|><|start|>assistant<|channel|>final<|message|>")),
        ((), (), ON_BY_DEFAULT, ThinkingMarks()),  # spelled by the template
        ((), (), OFF_BY_DEFAULT, ThinkingMarks()),
        ((), (), PLAIN, None),
        ((), (), None, None),
    ],
)  # fmt: skip
def test_marks_are_those_that_tokenizer_or_template_know(special, added, template, expected):
    assert marks_of(tokenizer(special, template, added)) == expected


QUESTION = [{"role": "user", "content": "two and two?"}]
OFF = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "on", "off"),
    [
        (ON_BY_DEFAULT, "<think>", OFF), (OFF_BY_DEFAULT, "<think>\n", "</think>"), (ALWAYS, "<think>\n", "<think>\n"),
        (PLAIN, "", ""),
    ],
)  # fmt: skip
def test_a_template_is_switched_on_and_off_where_it_can(template, on, off):
    model = bigrams({}, tokenizer(CONTROL if template != PLAIN else (), template))
    said = "two and two?" if template != PLAIN else "two and two?\n" + INSTRUCTION

    def text(parts: list) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in parts)

    assert text(model.chat_prompt(QUESTION)) == f"<s>user\ntwo and two?</s>\n<s>assistant\n{off}"
    for budget in (True, 0, 9):
        prompt = model.chat_prompt(QUESTION, thinking=budget)
        assert text(prompt) == f"<s>user\n{said}</s>\n<s>assistant\n{on}" and isinstance(prompt[-1], Opening)
    if template == ON_BY_DEFAULT:  # what a caller sets stays
        assert text(model.chat_prompt(QUESTION, chat_template_kwargs={"enable_thinking": True})).endswith("assistant\n")


def test_a_chat_model_without_marks_is_told_and_its_thought_ends_in_words():
    table = {"\n": "A", "J": "\n", "A": "B", ":": "4"} | STEPS_OF_TABLE
    model = bigrams(table, tokenizer((), PLAIN))
    result = model.chat(QUESTION, thinking=6, details=True, max_new_tokens=4)
    assert (result.thinking, result.text) == ("ABCDEF", "4.")
    assert model.ask(None, "two and two?", transcript="", thinking=6, max_new_tokens=4) == "4."
    with pytest.raises(ValueError, match="assistant's"):
        model.chat([*QUESTION, {"role": "assistant", "content": "It"}], thinking=True)


def shown(prompt: list) -> str:
    return "".join(getattr(part, "text", part) for part in prompt if not isinstance(part, mmlm.Image))


def test_a_base_model_thinks_between_the_question_and_what_asks_for_the_answer(monkeypatch):
    """Two phases in one text: `Short answer:` is the end of the thought."""
    model = bigrams({".": "A", ":": "4", "4": ".", "A": "B"} | {key: STEPS_OF_TABLE[key] for key in "BCDE"})
    asked = []
    generate = mmlm.tasks.votes.generate
    monkeypatch.setattr(
        mmlm.tasks.votes,
        "generate",
        lambda own, prompts, **more: asked.extend(prompts) or generate(own, prompts, **more),
    )
    result = model.answer(parts.picture(1), "two and two?", thinking=4, max_new_tokens=2, details=True)
    assert (result.thinking, result.text) == ("ABCD", "4.")
    assert shown(asked.pop()[1:]) == f"Question:two and two?{STEPS}"
    wrote = model.processor.decode_marked(result.token_ids)
    assert wrote == "ABCD Short answer:4."
    model.ask(None, transcript="two and two?", examples=THOUGHTS[:1], thinking=4, max_new_tokens=2)
    question, thought, reply = THOUGHTS[0]
    text = f"Question:{question}{STEPS} {thought} Short answer: {reply}\nQuestion:"
    assert shown(asked.pop()).startswith(text)
    with pytest.raises(TypeError, match="thought"):
        model.ask(None, "two and two?", transcript="", examples=[("a", "b")], thinking=4)


def test_a_model_with_control_tokens_of_its_own_and_no_template_thinks_after_its_prompt():
    own = tokenizer(CONTROL)
    model = bigrams({"<think>": "A", "</think>": "4"} | STEPS_OF_TABLE | {"J": "</think>", ":": "5", "5": END}, own)
    assert model.answer(parts.picture(1), "what?", max_new_tokens=9) == "5"  # as ever
    result = model.answer(parts.picture(1), "what?", thinking=True, details=True, max_new_tokens=9)
    assert (result.thinking, result.answer) == (THOUGHT, "4.")
    examples = [(parts.picture(2), "and?", "it is so", "yes")]
    assert model.answer(parts.picture(1), "what?", examples, thinking=3, max_new_tokens=9) == "4."


def test_what_thinks_unasked_is_told_apart_as_well():
    table = {"!": "<", "<": "t", "t": "h", "h": "i", "i": "n", "n": "k", "k": ">", ">": "A", "A": END}
    result = bigrams(table).generate(PROMPT, max_new_tokens=20)
    assert (result.text, result.thinking, result.answer) == ("<think>A", "A", "")
    assert bigrams({"!": "4", "4": END}).generate(PROMPT).thinking is None


def test_a_prompt_opens_its_thought_once():
    marks = ThinkingMarks()
    assert opened(["a"], marks) == ["a", Opening("<think>", marks)]
    assert opened([Markup("a<think>\n")], marks) == [Markup("a<think>\n"), Opening("", marks)]
    assert begins_thinking(opened(["a"], marks)) and not begins_thinking(["<think>"])
    assert begins_thinking([Markup("<thi"), Markup("nk>")]) and not begins_thinking([])


def test_what_is_wrong_is_told():
    model = model_of("spelled")
    for options, error, message in (
        (dict(thinking=-1), ValueError, "thinking must be in 0"),
        (dict(thinking="high"), TypeError, "thinking must be True, False or a number"),
        (dict(thinking=True, thinking_marks="</think>"), TypeError, "ThinkingMarks"),
        (dict(thinking=True, min_new_tokens=3), ValueError, "min_new_tokens"),
        (dict(thinking=600, thinking_marks=KINDS["words"][0]), ValueError, "lower thinking"),
        (dict(thinking=True), ValueError, "knows no marks"),
        (dict(enable_thinking=True), TypeError, "'thinking'"),
    ):
        with pytest.raises(error, match=message):
            model.generate(PROMPT, **options)
    with pytest.raises(ValueError, match="closing"):
        ThinkingMarks("<think>", " ")


def test_a_thought_without_a_number_has_the_positions_that_are_left():
    endless = bigrams({"!": "A", "A": "A", ":": "4", "4": "."})
    options = dict(thinking=True, thinking_marks=KINDS["words"][0], max_new_tokens=20, details=True)
    prompt_tokens = len(PROMPT[0])
    options.pop("details")
    result = endless.generate(PROMPT, **options)
    assert len(result.thinking) == 512 - prompt_tokens - 4 - 20
    assert result.text.startswith("4.")


# The command line


CHAT = {"!": "4", "4": ".", ".": END, "<think>": "A", "A": "B", "B": "</think>", "</think>": "4"}


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """What a verb prints, and its exit code, with a model of bigrams."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}!"
    model = bigrams(CHAT, tokenizer(CONTROL, template))
    picture = tmp_path / "a.png"
    parts.picture(1).save(picture)
    for verb in ("chat", "ask", "pictures"):
        monkeypatch.setattr(f"mmlm.cli.{verb}.load_model", lambda *_, **options: model)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([str(picture) if one == "PICTURE" else one for one in arguments])
        return code, *capsys.readouterr()

    return run


def test_a_thought_is_asked_for_and_shown_on_the_command_line(typed):
    assert typed("chat", "what?", "--thinking", "--show-thinking") == (0, "4.\n", "AB\n")
    assert typed("chat", "what?", "--thinking=1", "--show-thinking") == (0, "4.\n", "A\n")
    assert typed("chat", "what?", "--thinking", "5") == (0, "4.\n", "")
    assert typed("chat", "what?") == (0, "4.\n", "")
    code, out, err = typed("chat", "what?", "--thinking", "--votes", "3", "--json")
    record = json.loads(out)
    assert (record["content"], record["thinking"], record["votes"], record["agreement"]) == ("4.", "AB", {"4": 3}, 1.0)
    code, out, err = typed("answer", "PICTURE", "what?", "--thinking=0", "--votes=2", "--details")
    assert code == 0 and out.startswith("4.\n") and "2 of 2 votes" in out and "2 of them for thinking" in out


def test_what_is_wrong_on_the_command_line_is_told(typed, capsys):
    for arguments, message in (
        (["--votes", "0"], "--votes must be at least 1"),
        (["--show-thinking"], "without --thinking"),
        (["--thinking=-1"], "thinking must be in 0"),
    ):
        code, _, err = typed("chat", "what?", *arguments)
        assert code == 2 and message in err
    with pytest.raises(SystemExit):
        main(["chat", "--thinking", "what is it?"])
    assert "after the other arguments" in capsys.readouterr().err
