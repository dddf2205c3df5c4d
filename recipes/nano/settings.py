"""The settings of the nano recipe: what each stage makes, how much of it, and for how long it trains."""

from dataclasses import dataclass, field


@dataclass
class Scenes:
    """How many pictures to draw; about 1,000 a second."""

    train: int = 60_000
    dev: int = 1000
    unseen: int = 500
    contrastive: int = 60_000  # for the image encoder; half of them hold nine things
    text: int = 80_000  # scenes that are only written about
    neat: int = 20_000  # with each thing in the middle of its cell, in exactly its colour, to learn drawing from
    loose: int = 5000  # of the same size as these, beside them


@dataclass
class ImageEncoder:
    steps: int = 2500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    width: int = 128
    layers: int = 4


@dataclass
class LanguageModel:
    vocabulary: int = 2048
    steps: int = 2400
    hidden_size: int = 192
    layers: int = 6  # to look up, to compare and to count takes several steps
    heads: int = 6


@dataclass
class Speech:
    """How much is said by espeak-ng; about 60 utterances a second."""

    train: int = 24_000
    dev: int = 500
    questions: int = 16_000  # said of pictures, and orders
    dev_questions: int = 600


@dataclass
class AudioEncoder:
    steps: int = 4700
    learning_rate: float = 2.5e-3  # Muon's
    batch_size: int = 32
    width: int = 128
    audio_layers: int = 4
    text_layers: int = 3
    more_steps: int = 4000  # from there on, with windows from the start
    more_learning_rate: float = 2e-3
    digit_strings: int = 40_000  # about half of what it hears then
    digit_steps: int = 1000
    digit_learning_rate: float = 1e-3
    digit_more_steps: int = 3000  # of the decoder alone


@dataclass
class Adapters:
    steps: int = 7000
    learning_rate: float = 4.5e-3  # Muon's
    gate_learning_rate_scale: float = 3.0
    settling_steps: int = 1500  # in which every scene's caption has the wording that is to be written
    settling_rate: float = 1.5e-3
    batch_size: int = 64
    caption_share: float = 0.3  # questions have few tokens to learn from
    heads: int = 8  # how many things a word can look for at once
    dim_head: int = 32


@dataclass
class Ears:
    """The same adapters, when they learn to listen as well."""

    steps: int = 2500
    more_steps: int = 2000
    learning_rate: float = 3e-3  # Muon's
    batch_size: int = 48
    stack: int = 4  # of Whisper's 50 tokens a second


@dataclass
class Pencil:
    """What draws: a codec with a place for each cell of a scene, and its diffusion decoder, which makes edges sharp."""

    size: int = 128  # pixels a side
    codec_pictures: int = 1500  # of neat scenes, and of loose ones, that the codebooks are learned from
    codebook_size: int = 1024
    refinements: int = 2
    decoder_steps: int = 7000
    decoder_batch_size: int = 8
    decoder_channels: tuple[int, ...] = (32, 48, 64)


@dataclass
class Voice:
    """Digits as people said them, and other words as espeak-ng did, at 8 kHz and 25 steps of codes a second."""

    train: int = 2200  # words
    dev: int = 220
    judge: int = 2200  # in other voices, for the recogniser that judges
    unheard: int = 440  # in voices that nothing learned from
    seconds: float = 0.5  # that a codec and its decoder learn from at once: words are about so long
    codec_steps: int = 3000
    codec_more_steps: int = 4000
    codec_width: int = 96
    codebook_size: int = 256
    num_codebooks: int = 4
    decoder_steps: int = 1500
    decoder_batch_size: int = 16
    decoder_channels: tuple[int, ...] = (32, 48, 64)


@dataclass
class Writing:
    """What the language model gets to write codes with: their rows, and LoRA."""

    words: int = 440  # in the voice that it is to have
    dev_words: int = 88
    word_passes: int = 10  # how often it sees each of them while it sees a scene once
    digit_passes: int = 30  # and each digit, which people say less alike than espeak-ng its words
    emoji_passes: int = 16  # and each emoji
    steps: int = 6000
    batch_size: int = 32
    learning_rate: float = 3e-3  # Muon's, for LoRA
    lora_rank: int = 48
    more_steps: int = 5000  # after the language model has learned to think
    more_learning_rate: float = 3e-3
    last_steps: int = 5000
    last_learning_rate: float = 3e-3


@dataclass
class Thoughts:
    """What the language model learns to do in several steps, together with the adapters."""

    drill_steps: int = 1000  # before any text
    drill_learning_rate: float = 3e-3  # Muon's
    drill_words: int = 220
    drill_share: float = 0.2  # of the steps among texts, and half of it from their middle on
    texts: int = 150_000  # exercises in words alone, which the language model reads first
    text_steps: int = 5000
    text_batch_size: int = 32
    text_learning_rate: float = 2.5e-3  # Muon's
    exercises: int = 60_000
    dev_exercises: int = 600
    boxes: int = 24_000  # of NLVR, told and judged
    dev_boxes: int = 200
    exercise_passes: int = 2  # while every picture comes once
    hearing: bool = True
    steps: int = 1500
    batch_size: int = 48
    learning_rate: float = 2e-3  # Muon's
    more_exercises: int = 20_000  # of the kinds that come seldom
    more_picture_passes: int = 1  # of pictures and questions without a thought, beside the first
    more_steps: int = 5000
    last_exercises: int = 20_000  # of the kinds that are not right often enough then
    last_steps: int = 2000  # of thoughts and of the writing of codes in the same steps
    last_learning_rate: float = 1e-3


@dataclass
class Rewards:
    steps: int = 48
    batch_size: int = 8  # questions, each with 12 answers
    learning_rate: float = 3e-4


@dataclass
class Looking:
    """What the adapters learn last, while the language model rests."""

    exercises: int = 15_000
    steps: int = 2000
    learning_rate: float = 1.5e-3  # Muon's
    more_steps: int = 900
    more_learning_rate: float = 1e-3


@dataclass
class Judging:
    """What is learned of NLVR, beside all the rest."""

    exercises: int = 60_000  # sentences to judge, and half as many boxes to tell
    steps: int = 2000
    learning_rate: float = 1.5e-3  # Muon's
    drawings: int = 12  # pictures and words in a step, whose codes are written


@dataclass
class Recipe:
    seed: int = 0
    device: str = "cpu"
    scenes: Scenes = field(default_factory=Scenes)
    image_encoder: ImageEncoder = field(default_factory=ImageEncoder)
    speech: Speech = field(default_factory=Speech)
    audio_encoder: AudioEncoder = field(default_factory=AudioEncoder)
    language_model: LanguageModel = field(default_factory=LanguageModel)
    adapters: Adapters = field(default_factory=Adapters)
    ears: Ears = field(default_factory=Ears)
    pencil: Pencil = field(default_factory=Pencil)
    voice: Voice = field(default_factory=Voice)
    writing: Writing = field(default_factory=Writing)
    thoughts: Thoughts = field(default_factory=Thoughts)
    rewards: Rewards = field(default_factory=Rewards)
    looking: Looking = field(default_factory=Looking)
    judging: Judging = field(default_factory=Judging)
