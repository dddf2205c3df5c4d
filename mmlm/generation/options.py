"""How to decode: the options of a generation."""

from dataclasses import dataclass

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class GenerationOptions:
    """How to decode; names and meanings are transformers'.

    `temperature`, `top_k`, `top_p` act with `do_sample=True`; `length_penalty` acts with `num_beams > 1`. `stop`
    strings and `stop_token_ids` end a text, beside the language model's own end tokens, and are left out of it.
    Sampling draws from `seed`; None takes a fresh one.
    """

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self):
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature must be above 0, not {self.temperature}; for no randomness leave do_sample off"
            )
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if not self.do_sample and (self.temperature != 1.0 or self.top_k is not None or self.top_p is not None):
            raise ValueError("temperature, top_k and top_p act only when sampling: pass do_sample=True")
        if self.do_sample and self.num_beams > 1:
            raise ValueError("choose beams or sampling, not both")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True or as many beams; "
                f"num_beams is {self.num_beams}"
            )
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty")
        if any(token < 0 for token in self.stop_token_ids):
            raise ValueError(f"stop_token_ids holds a negative id: {self.stop_token_ids}")

    def processors(self) -> LogitsProcessorList:
        """transformers' logits processors for these options, in its order."""
        chain = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.do_sample:
            if self.temperature != 1.0:
                chain.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k is not None:
                chain.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1.0:
                chain.append(TopPLogitsWarper(self.top_p))
        return chain


def sampler(options: GenerationOptions, device: torch.device) -> torch.Generator | None:
    """What sampling draws from, for all batches of a request; None where nothing is drawn."""
    if not options.do_sample:
        return None
    generator = torch.Generator(device)
    if options.seed is None:
        generator.seed()
    else:
        generator.manual_seed(options.seed)
    return generator
