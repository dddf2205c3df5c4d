"""Chat models: where an answer ends, and what of the text is the answer."""

import logging

import pytest
import transformers

import mmlm
from mmlm.prompting.conversation import turn_end
from mmlm.prompting.parts import Markup
from mmlm.prompting.thinking import after_thinking, begins_thinking
from support import families, parts

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def tokenizer(eos: str = "<|endoftext|>", template: str | None = TEMPLATE):
    made = families.tokenizer()
    made.add_special_tokens({"eos_token": eos, "additional_special_tokens": [t for t in CONTROL if t != eos]})
    made.chat_template = template
    return made


class Scripted(transformers.LlamaForCausalLM):
    """Writes a script, whatever is asked."""

    script: list[int] = []
    begin = 0

    def forward(self, input_ids=None, position_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, position_ids=position_ids, **kwargs)
        if input_ids.shape[1] > 1:
            self.begin = int(position_ids.max())
        place = min(int(position_ids.max()) - self.begin, len(self.script) - 1)
        output.logits[:] = -30
        output.logits[:, -1, self.script[place]] = 30
        return output


def chat(script: str, own=None, ends=None) -> mmlm.MultimodalLM:
    own = own or tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    language_model = Scripted(config).eval()
    language_model.generation_config.eos_token_id = ends
    language_model.script = own(script)["input_ids"]
    return mmlm.assemble(language_model, parts.image_encoder(), tokenizer=own)


def asked(model: mmlm.MultimodalLM, **options):
    return model.ask(None, transcript="how many legs does a dog have?", **{"max_new_tokens": 120, **options})


TURNS = "four<|im_end|>\n<|im_start|>user\nand wings?<|im_end|>\n<|im_start|>assistant\ntwo<|endoftext|>"


@pytest.mark.parametrize(
    ("eos", "ends"),
    [
        ("<|im_end|>", None),  # the tokenizer's
        ("<|endoftext|>", None),  # the template's alone
        ("<|im_end|>", [256]),  # the generation config names another
        ("<|endoftext|>", [256]),
    ],
)
def test_a_turn_ends_where_any_of_the_three_says_so(eos, ends):
    model = chat(TURNS, tokenizer(eos), ends)
    assert asked(model) == "four"
    assert asked(model, details=True).finish_reason == "stop"


def test_ends_are_a_union():
    own = tokenizer()
    ids = {name: own.convert_tokens_to_ids(name) for name in CONTROL}
    model = chat("a", own, ends=[7, 9]).language_model
    assert model.stop_ids == [
        model.vocabulary.end_of_chunk_id,
        *sorted([7, 9, ids["<|endoftext|>"], ids["<|im_end|>"]]),
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, "<|im_end|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }} <|endoftext|>{% endfor %}", "<|endoftext|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),  # ends in no control token
        ("{{ raise_exception('no') }}", None),
        ("{{ messages[0].content }}", None),  # leaves answers out
        (None, None),
    ],
)
def test_a_template_says_how_a_turn_ends(template, expected):
    own = tokenizer(template=template)
    assert turn_end(own) == (None if expected is None else own.convert_tokens_to_ids(expected))


# Thinking


@pytest.mark.parametrize(
    ("text", "begun", "answer"),
    [
        ("four", False, "four"),
        ("<think>\nlegs…\n</think>\n\nfour", False, "\n\nfour"),
        ("legs…\n</think>\nfour", True, "\nfour"),  # the prompt has the opening mark
        ("<think>\nlegs", False, ""),
        ("legs", True, ""),
        ("<think></think>four", False, "four"),
        ("  <think>a</think>b<think>c</think>d", False, "d"),
        ("a < b > c", False, "a < b > c"),
    ],
)
def test_the_answer_comes_after_the_thinking(text, begun, answer):
    assert after_thinking(text, begun) == answer


def test_thinking_is_no_part_of_what_a_verb_answers_and_stays_in_the_result():
    text = "<think>\nA dog has legs, count them.\n</think>\n\nfour"
    model = chat(text + "<|im_end|>")
    assert asked(model) == "four"
    result = asked(model, details=True)
    assert result.text == str(result) == text and result.answer.strip() == "four"
    assert result.to_dict()["answer"].strip() == "four" and result.to_dict()["text"] == text
    running = model.stream(["aaa"], max_new_tokens=120)
    assert "".join(running) == text and running.result.answer.strip() == "four"


def test_a_template_may_open_the_thinking_itself():
    own = tokenizer(template=THINKING)
    assert asked(chat("legs\n</think>\nfour<|im_end|>", own)) == "four"
    assert asked(chat("legs, still", own), max_new_tokens=8) == ""
    assert begins_thinking([Markup("a"), "b", Markup("c<think>\n")]) and not begins_thinking(["<think>"])


def test_thinking_to_the_limit_is_told(caplog):
    model = chat("<think>\nA dog has legs, count them.\n</think>\n\nfour<|im_end|>")
    with caplog.at_level(logging.WARNING):
        assert asked(model, max_new_tokens=12) == ""
    assert "still thinking after 12 tokens" in caplog.text and "max_new_tokens" in caplog.text
    assert asked(model, max_new_tokens=12, details=True).text.startswith("<think>")
