"""The task of lmms-eval that asks about drawn scenes: `recipes/lmms_eval`. lmms-eval itself is not installed here."""

import json
import random
import re

from PIL import Image

from recipes.lmms_eval import scenes
from recipes.lmms_eval.run import HERE, write_questions
from recipes.nano.questions import questions
from recipes.nano.scenes import sample_scene, unseen_layout


def test_the_task_asks_each_written_question_with_its_picture(tmp_path):
    """The answers are among those that the scene has; the message is what OpenAI's clients send."""
    lines = write_questions(tmp_path, 4, seed=3)
    assert lines == [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    for index, line in enumerate(lines):
        scene = sample_scene(random.Random(f"3 lmms-eval {index}"), unseen_layout)
        known = {(own.question, own.answer) for seed in range(300) for own in questions(scene, random.Random(seed))}
        assert (line["question"], line["answer"]) in known
        (message,) = scenes.messages(line)
        picture, text = message["content"]
        assert message["role"] == "user" and text == {"type": "text", "text": line["question"]}
        assert picture["url"].tobytes() == Image.open(line["image"]).convert("RGB").tobytes()


def test_the_task_names_functions_that_there_are():
    named = re.findall(r"!function scenes\.(\w+)", (HERE / "scenes.yaml").read_text())
    assert named == ["pictures", "messages"] and all(callable(getattr(scenes, name)) for name in named)
