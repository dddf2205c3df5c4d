"""Language models that write what a script says, whatever they are asked; and tokenizers with templates for tools."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import torch
import transformers

import mmlm
from support import families, parts

CONTROL = [
    "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[INST]", "[/INST]",
    "<|head|>", "<|calls|>", "<|/calls|>", "<|sep|>",
]  # fmt: skip

_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}@CALLS@<|im_end|>\n{% endfor %}"
_GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_OFFER = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"

TEMPLATES: dict[str, str | None] = {
    # calls between marks that are tokens, as Qwen's and Hermes'
    "hermes": _OFFER
    + _TURNS.replace(
        "@CALLS@",
        '{% for c in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
        "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
    )
    + _GENERATION,
    # the same, behind a thought that the template begins
    "thinking": _OFFER
    + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '<think>\n\n</think>\n\n' if m.role == 'assistant' }}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": "
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    # nothing but JSON, one call a message, as Llama 3's
    "bare": "{{ bos_token }}{% if tools %}<|head|>system\n\n{% for t in tools %}{{ t | tojson(indent=4) }}\n"
    "{% endfor %}<|im_end|>{% endif %}{% for m in messages %}<|head|>"
    "{{ 'ipython' if m.role == 'tool' else m.role }}\n\n"
    "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content | trim }}{% endif %}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant\n\n{% endif %}",
    # name and arguments between control tokens that decoding hides, as Mistral's
    "hidden": "<s>{% if tools %}[INST]{{ tools | tojson }}[/INST]{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}</s>"
    "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}",
    # a list of calls, as Granite's and Cohere's
    "listed": _OFFER
    + _TURNS.replace(
        "@CALLS@",
        "{% if m.tool_calls %}<|calls|>[{% for c in m.tool_calls %}{{ ', ' if not loop.first }}"
        '{"tool_name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}]'
        "<|/calls|>"
        "{% endif %}"
    )
    + _GENERATION,
    # a block of JSON behind the name, as DeepSeek's
    "fenced": _OFFER
    + _TURNS.replace(
        "@CALLS@",
        "{% for c in m.tool_calls or [] %}<|calls|>function<|sep|>{{ c.function.name }}\n```json\n"
        "{{ c.function.arguments | tojson }}\n```<|/calls|>{% endfor %}"
    )
    + _GENERATION,
    # arguments that are no JSON, as Qwen3-Coder's
    "tagged": _OFFER
    + _TURNS.replace(
        "@CALLS@",
        "{% for c in m.tool_calls or [] %}<tool_call>\n<function={{ c.function.name }}>"
        "{% for key, value in c.function.arguments | items %}\n<parameter={{ key }}>\n{{ value }}\n</parameter>"
        "{% endfor %}\n</function>\n</tool_call>{% endfor %}"
    )
    + _GENERATION,
    # a template that knows no tools
    "words": "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no ' ~ m.role) }}"
    "{% endif %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _GENERATION,
    # none
    "react": None,
}  # fmt: skip

CALLS = {
    "hermes": '<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>',
    "thinking": 'hm</think>\n\n<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>',
    "bare": '{"name": "NAME", "parameters": ARGUMENTS}',
    "hidden": "[TOOL_CALLS]NAME[ARGS]ARGUMENTS",
    "listed": '<|calls|>[{"tool_name": "NAME", "parameters": ARGUMENTS}]<|/calls|>',
    "fenced": "<|calls|>function<|sep|>NAME\n```json\nARGUMENTS\n```<|/calls|>",
    "words": '<tool_call>{"name": "NAME", "arguments": ARGUMENTS}</tool_call>',
    "react": " I have to look.\nAction: NAME\nAction Input: ARGUMENTS\nObservation: what I invent",
}
"""A call as a model of each template writes it, by hand."""


def rendered_here(request: str, conversations: str, today: str) -> list[dict[str, str]]:
    """What a template's process does, in this one: starting a process for each prompt takes long."""
    from transformers.utils.chat_template_utils import render_jinja_template

    found = []
    for messages, generation in json.loads(conversations):
        try:
            (text,), _ = render_jinja_template([messages], add_generation_prompt=generation, **json.loads(request))
            found.append({"text": text})
        except Exception as error:
            found.append({"error": str(error)})
    return found


def tokenizer(template: str | None) -> Any:
    """Bytes, with control tokens; `template` is one of TEMPLATES."""
    made = families.tokenizer()
    made.add_special_tokens({"eos_token": "</s>", "bos_token": "<s>", "additional_special_tokens": [*CONTROL]})
    made.chat_template = None if template is None else TEMPLATES[template]
    return made


class Script:
    """Makes a model write texts, one for each prompt; None lets it write what it would.

    texts: an end is put behind each. prompts: the ids that it was asked with. Register it after the model is assembled.
    """

    def __init__(self, model: mmlm.MultimodalLM, *texts: str | None) -> None:
        self.tokenizer, self.stop = model.processor.tokenizer, model.language_model.stop_ids[0]
        self.texts, self.prompts = list(texts), list[list[int]]()
        self.ids: list[int] | None = None
        self.place = 0
        self.handle = model.language_model.model.register_forward_hook(self._hook, with_kwargs=True)

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _hook(self, module: Any, given: Any, keywords: dict[str, Any], output: Any) -> Any:
        ids = keywords["input_ids"] if "input_ids" in keywords else given[0]
        if ids.shape[1] > 1:
            self.prompts.append(ids[0].tolist())
            text = self.texts[min(len(self.prompts), len(self.texts)) - 1]
            self.ids = (
                None if text is None else [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.stop]
            )
            self.place = 0
        if self.ids is not None:
            output.logits[:] = -30
            output.logits[:, -1, self.ids[min(self.place, len(self.ids) - 1)]] = 30
            self.place += 1
        return output


class Processor:
    """The same as a logits processor, for one request: also where requests are decoded together."""

    def __init__(self, model: mmlm.MultimodalLM, text: str, prompts: list[list[int]]) -> None:
        tokenizer = model.processor.tokenizer
        self.ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], model.language_model.stop_ids[0]]
        self.prompts, self.begun = prompts, 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.begun:
            self.begun = ids.shape[1]
            self.prompts.append(ids[0].tolist())
        forced = torch.full_like(scores, -1e4)
        forced[:, self.ids[min(ids.shape[1] - self.begun, len(self.ids) - 1)]] = 0
        return forced.masked_fill(scores.isneginf(), -torch.inf)  # what a constraint does not allow stays so


def model(template: str | None, family: str = "llama", *, seed: int = 0, **assembled: Any) -> mmlm.MultimodalLM:
    """A tiny model of a family with 8,192 positions, a picture encoder, and a tokenizer of `template`."""
    name, arguments = families.FAMILIES[family]
    positions = ("max_position_embeddings", "n_positions", "max_seq_len")
    arguments = copy.deepcopy(arguments) | {key: 8192 for key in positions if key in arguments}
    config = getattr(transformers, name)(**arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        language_model = transformers.AutoModelForCausalLM.from_config(config).eval()
    found = mmlm.assemble(language_model, parts.image_encoder(), tokenizer=tokenizer(template), **assembled)
    parts.open_gates(found)
    return found


def said(prompt: Sequence[int], own: mmlm.MultimodalLM) -> str:
    """The text of a prompt's ids, control tokens included."""
    return own.processor.tokenizer.decode([i for i in prompt if i not in own.processor.vocabulary])
