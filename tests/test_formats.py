"""Formats of data sets, in files laid out by hand as their authors lay them out; what of them is learned."""

import base64
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmlm.data import BadRecordsError, Record, RecordSet, read_records
from mmlm.data.check import film_at
from mmlm.data.find import media_in
from mmlm.data.prompts import conversation_parts, document_parts, example_of
from mmlm.data.readers import parquet
from mmlm.data.records import Text
from mmlm.evaluation.official import read_vqa
from mmlm.prompting import END_OF_CHUNK, IGNORE_INDEX, Image, Learned, PromptTemplate, Sound, chat_prompt, taught
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.processor import Processor
from mmlm.prompting.vocabulary import MediaVocabulary
from mmlm.training.config import TrainConfig
from mmlm.training.examples import prepare, usable_records
from mmlm.training.rows import batch_of
from support import families
from support.training_objectives import png, run, tiny_model
from test_conversations import TEMPLATES
from test_conversations import tokenizer as templated
from test_streams import tar_of

RED, BLUE = png((250, 0, 0)), png((0, 0, 250))


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def said(record: Record) -> list[tuple]:
    """Who says what; of media, the bytes."""

    def shown(part):
        return part if isinstance(part, str) else part.source if isinstance(part.source, bytes) else part.source.read()

    return [(turn.role, *map(shown, turn.content)) for turn in record.messages]


# Formats


def test_vqa_v2(tmp_path):
    about = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "train2014"}
    questions = [
        {"image_id": 9, "question": "What colour?", "question_id": 9000},
        {"image_id": 458752, "question": "How many?", "question_id": 458752001},
        {"image_id": 9, "question": "Is it day?", "question_id": 9001},
        {"image_id": 9, "question": "Unanswered?", "question_id": 9002},
        {"image_id": 7, "question": "No picture?", "question_id": 7000},
    ]
    answers = {9000: "red", 458752001: "2", 9001: "yes", 7000: "no"}
    annotations = [
        {"question_id": key, "image_id": key // 1000, "question_type": "what", "answer_type": "other",
         "multiple_choice_answer": own, "answers": [{"answer": own, "answer_confidence": "yes", "answer_id": 1}] * 10}
        for key, own in answers.items()
    ]  # fmt: skip
    path = tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json"
    path.write_text(json.dumps({**about, "task_type": "Open-Ended", "questions": questions}))
    with pytest.raises(FileNotFoundError, match="v2_mscoco_train2014_annotations.json"):
        read_records(path)
    (tmp_path / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({**about, "annotations": annotations}))
    pictures(tmp_path, "train2014/COCO_train2014_000000000009.jpg", "train2014/COCO_train2014_000000458752.jpg")
    records = read_records(path, bad_limit=0.5)
    assert [(r.image[-16:], r.qa) for r in records] == [
        (b"000000000009.jpg", (("What colour?", "red"), ("Is it day?", "yes"))),
        (b"000000458752.jpg", (("How many?", "2"),)),
    ]
    assert [bad.reason[:20] for bad in records.bad] == ["no question with an ", "no picture at " + str(tmp_path)[:6]]
    assert len(read_records(path, images=tmp_path / "train2014", bad_limit=0.5)) == 2


def test_an_empty_answer_of_vqa_drops_its_own_question_alone(tmp_path):
    about = {"data_subtype": "val2014"}
    asked = [{"image_id": 9, "question_id": n, "question": q} for n, q in enumerate(("Which?", "How?", " ", 5, "Why?"))]
    said = [{"question_id": n, "multiple_choice_answer": a} for n, a in enumerate(("red", "", "x", "y", "so"))]
    (tmp_path / "v2_OpenEnded_x_questions.json").write_text(json.dumps({**about, "questions": asked}))
    (tmp_path / "v2_x_annotations.json").write_text(json.dumps({**about, "annotations": said}))
    pictures(tmp_path, "COCO_val2014_000000000009.jpg")
    (record,) = found = read_records(tmp_path / "v2_OpenEnded_x_questions.json", bad_limit=0.9)
    assert record.qa == (("Which?", "red"), ("Why?", "so"))
    assert [(bad.key.rpartition(" ")[2], bad.reason) for bad in found.bad] == [
        ("questions[2]", "an empty question or answer"),
        ("questions[3]", "an empty question or answer"),
        ("questions[4]", "a question that is not text"),
    ]


def test_vqa_is_read_alike_for_training_and_for_evaluation(tmp_path):
    """Ten people's answers: what is learned is what most gave, and all ten are judged by."""
    people = ["red", "dark red", "red", "crimson", "red", "wine", "red", "dark red", "red", "red"]
    given = {"question_id": 9000, "image_id": 9, "answers": [{"answer": own} for own in people]}
    asked = {"data_subtype": "val2014", "questions": [{"question_id": 9000, "image_id": 9, "question": "Which?"}]}
    path, beside = tmp_path / "v2_OpenEnded_x_questions.json", tmp_path / "v2_x_annotations.json"
    path.write_text(json.dumps(asked))
    pictures(tmp_path, "COCO_val2014_000000000009.jpg")
    for more in ({}, {"multiple_choice_answer": "red"}):
        beside.write_text(json.dumps({"data_subtype": "val2014", "annotations": [given | more]}))
        (record,) = read_records(path)
        (case,) = read_vqa(beside, path, tmp_path)
        assert record.qa == case.record.qa == (("Which?", "red"),) and record.source == case.record.source
        assert case.text == Text("question", "red", "Which?") and sorted(case.expected) == sorted(people)
    beside.write_text(json.dumps({"annotations": [{"question_id": 9000, "image_id": 9, "answers": []}]}))
    with pytest.raises(ValueError, match=r"annotations\[1\] lacks a field"):
        read_vqa(beside)


LLAVA = [
    {"id": "1", "image": "coco/a.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "Which colour?"}, {"from": "gpt", "value": "Brown."}]},
    {"id": "2", "image": ["a.jpg", "b.jpg"], "conversations": [
        {"from": "human", "value": "Compare <image> with\n<image>"}, {"from": "gpt", "value": "Both are red."}]},
    {"id": "3", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
    {"id": "4", "image": "b.jpg", "conversations": [
        {"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]},
]  # fmt: skip
TURNS = [
    [
        ("user", b"coco/a.jpg", "What is it?"),
        ("assistant", "A dog."),
        ("user", "Which colour?"),
        ("assistant", "Brown."),
    ],
    [("user", "Compare", b"a.jpg", "with", b"b.jpg"), ("assistant", "Both are red.")],
    [("user", "Hello"), ("assistant", "Hi!")],
    [("user", b"b.jpg", "What?"), ("assistant", "That.")],
]


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_llava_conversations(tmp_path, name):
    pictures(tmp_path, "coco/a.jpg", "a.jpg", "b.jpg")
    text = json.dumps(LLAVA) if name.endswith("json") else "".join(json.dumps(entry) + "\n" for entry in LLAVA)
    (tmp_path / name).write_text(text)
    records = read_records(tmp_path / name)
    assert [record.key for record in records] == list("1234") and list(map(said, records)) == TURNS
    found = [name for name, _ in media_in(str(tmp_path / name), "image", ["jpg"])]
    assert found == [str(tmp_path / own) for own in ("coco/a.jpg", "a.jpg", "b.jpg", "b.jpg")]


def test_an_entry_of_llava_that_is_none_does_not_tell_what_the_file_is(tmp_path):
    pictures(tmp_path, "coco/a.jpg")
    (tmp_path / "llava.json").write_text(json.dumps([None, {"id": "0"}, LLAVA[0]]))
    found = read_records(tmp_path / "llava.json", bad_limit=0.9)
    assert [record.key for record in found] == ["1"]
    assert [bad.key for bad in found.bad] == ["llava.json [1]", "llava.json [2]"]


def test_conversations_in_tars_name_their_members_or_have_them_in_order(tmp_path):
    entries = {
        "1.json": {"conversations": LLAVA[1]["conversations"]}, "1.a.jpg": b"a.jpg", "1.b.jpg": b"b.jpg",
        "2.json": {"messages": [
            {"role": "user", "content": [{"type": "image", "image": "1.jpg"}, {"type": "text", "text": "and"},
                                         {"type": "image", "image": "0.jpg"}]},
            {"role": "assistant", "content": "Two."}]}, "2.0.jpg": b"a.jpg", "2.1.jpg": b"b.jpg",
        "3.json": {"texts": [None, "A story."], "images": ["0.jpg", None]}, "3.0.jpg": b"c.jpg",
    }  # fmt: skip
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in entries.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    first, second, third = read_records(tmp_path / "t.tar")
    assert said(first) == TURNS[1]
    assert said(second) == [("user", b"b.jpg", "and", b"a.jpg"), ("assistant", "Two.")]
    assert third.document[1] == "A story." and third.places[0][1].read() == b"c.jpg"


def test_a_medium_of_a_tar_whose_name_is_none_is_a_bad_record(tmp_path):
    fields = json.dumps({"images": [5], "prompt": "which?", "answer": "red"}).encode()
    (tmp_path / "a.tar").write_bytes(tar_of({"0.png": RED, "0.json": fields}))
    with pytest.raises(BadRecordsError, match="the name of a medium is 5"):
        read_records(tmp_path / "a.tar")


def test_messages_as_openai_and_transformers_have_them(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg", "s.wav")
    address = "data:image/png;base64," + base64.b64encode(RED).decode()
    lines = [
        {"messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}},
                                         {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}]},
        {"images": ["a.jpg", "b.jpg"], "audios": ["s.wav"], "messages": [
            {"role": "user", "content": "<image><audio>First."}, {"role": "assistant", "content": "One."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Second."}]},
            {"role": "assistant", "content": "Two."}]},
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_records(tmp_path / "m.jsonl")
    assert said(first) == [("system", "Be short."), ("user", RED, "What?"), ("assistant", "Red.")]
    assert [kind for kind, _ in second.places] == ["image", "audio", "image"]
    assert said(second)[2] == ("user", b"b.jpg", "Second.")


def test_media_of_every_kind_of_item_start_from_the_folder_of_the_manifest(tmp_path):
    pictures(tmp_path, "film.mp4", "s.wav")
    items = [
        {"type": "video", "path": "film.mp4"},
        {"type": "video", "video": "film.mp4"},
        {"type": "audio", "path": "s.wav"},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64," + base64.b64encode(b"heard").decode()}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"said").decode(), "format": "wav"}},
        {"type": "image", "base64": base64.b64encode(RED).decode()},
    ]
    turns = [{"role": "user", "content": items}, {"role": "assistant", "content": "x"}]
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": turns}))
    (record,) = read_records(tmp_path / "m.jsonl")
    assert [kind for kind, _ in record.places] == ["image", "image", "audio", "audio", "audio", "image"]
    assert said(record)[0] == ("user", b"film.mp4", b"film.mp4", b"s.wav", b"heard", b"said", RED)
    assert [film_at(place) is not None for _, place in record.places] == [True, True, *[False] * 4]


@pytest.mark.parametrize("fields, mark", [({"video": "f.mp4"}, "<image>"), ({"videos": ["f.mp4"]}, "<video>"),
                                          ({"video": "f.mp4"}, "")])  # fmt: skip
def test_films_beside_conversations_have_the_places_of_pictures(tmp_path, fields, mark):
    """LLaVA-Video writes "video" and `<image>`, others "videos" and `<video>`."""
    pictures(tmp_path, "f.mp4")
    turns = [{"from": "human", "value": f"{mark}\nWhat?"}, {"from": "gpt", "value": "A kite."}]
    (tmp_path / "m.jsonl").write_text(json.dumps({**fields, "conversations": turns}))
    (record,) = read_records(tmp_path / "m.jsonl")
    assert said(record) == [("user", b"f.mp4", "What?"), ("assistant", "A kite.")]
    assert film_at(record.places[0][1]) == tmp_path / "f.mp4"


HUMAN = {"from": "human", "value": "<image> <image> which?"}
GPT = {"from": "gpt", "value": "one"}


@pytest.mark.parametrize(
    "line, reason",
    [
        ({"image": "a.jpg", "conversations": [HUMAN, GPT]}, "more places for images"),
        ({"image": ["a.jpg"] * 3, "conversations": [HUMAN, GPT]}, "3 media, but the texts have places for 2"),
        ({"image": ["a.jpg", "gone.jpg"], "conversations": [HUMAN, GPT]}, "no picture at"),
        ({"conversations": [{"from": "dog", "value": "x"}, GPT]}, 'an entry of "conversations"'),
        ({"conversations": []}, "no list of messages"),
        ({"image": "a.jpg", "video": "a.mp4", "conversations": [HUMAN, GPT]}, "whose order is not told"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "the assistant says nothing"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}, "says nothing"),
        ({"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "x"}]}, "neither text nor"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "https://a.b/c.jpg"}]}]}, "an address"),
        *(({"messages": [{"role": "user", "content": [item]}, {"role": "assistant", "content": "x"}]}, reason)
          for item, reason in (
              ({"type": "video", "url": "https://a.b/c.mp4"}, "is an address: download it"),
              ({"type": "audio_url", "audio_url": {"url": "https://a.b/c.wav"}}, "is an address: download it"),
              ({"type": "video", "path": "gone.mp4"}, "no picture at"),
              ({"type": "image_url"}, "the name of a medium is None"),
              ({"type": "image_url", "image_url": {"url": 5}}, "the name of a medium is 5"),
              ({"type": "image", "path": ""}, "the name of a medium is ''"))),
        ({"text_list": ["a"], "image_info": [{"image_name": "a.jpg", "matched_text_index": 1}]}, "matched_text_index"),
        ({"texts": ["a"], "images": []}, "1 .texts. and 0 .images."),
        ({"texts": ["a"], "caption": "b"}, "no picture or recording"),
        ({"texts": [None], "images": ["a.jpg"]}, "without text"),
        ({"texts": [None, "a"], "images": ["https://a.b/c.jpg", None]}, "an address"),
        ({"texts": [None, "a"], "images": [{"path": "a.jpg"}, None]}, "the name of a picture is {'path': 'a.jpg'}"),
        ({"texts": [], "images": []}, "a document without text"),
        ({"image": "a.jpg", "prompt": "x", "answer": ["a"]}, "an answer that is no text"),
    ],
)  # fmt: skip
def test_bad_conversations_and_documents(tmp_path, line, reason):
    pictures(tmp_path, "a.jpg")
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    with pytest.raises(BadRecordsError, match=reason):
        read_records(tmp_path / "m.jsonl")


def test_documents_of_mmc4_and_obelics(tmp_path):
    pictures(tmp_path, "x.png", "y.png")
    mmc4 = {
        "url": "http://a.b", "text_list": ["One.", "Two.", "Three."], "could_have_url_duplicate": 0,
        "similarity_matrix": [[0.1, 0.2, 0.3]],
        "image_info": [
            {"face_detections": None, "image_name": "y.png", "matched_text_index": 2, "matched_sim": 0.3},
            {"face_detections": None, "image_name": "x.png", "matched_text_index": 0, "matched_sim": 0.2},
            {"face_detections": None, "raw_url": "http://a.b/c.png", "matched_text_index": 1, "matched_sim": 0.2},
        ],
    }  # fmt: skip
    obelics = {"images": [None, "x.png", None, None], "texts": ["Before.", None, "One.", "Two."], "metadata": "[]"}
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(mmc4)}\n{json.dumps(obelics)}\n")
    shown = [
        [part if isinstance(part, str) else part.source.read() for part in record.document]
        for record in read_records(tmp_path / "d.jsonl")
    ]
    assert shown == [[b"x.png", "One. Two.", b"y.png", "Three."], ["Before.", b"x.png", "One.\n\nTwo."]]


def test_documents_whose_pictures_are_null(tmp_path):
    lines = [{"text_list": ["One.", "Two."], "image_info": None}, {"text_list": ["Three."]}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [record.document for record in read_records(tmp_path / "d.jsonl")] == [("One. Two.",), ("Three.",)]
    (tmp_path / "d.jsonl").write_text(json.dumps({"texts": ["One."], "images": None}))
    with pytest.raises(BadRecordsError, match='"texts" are a document where "images" are a list beside them'):
        read_records(tmp_path / "d.jsonl")


# Parquet

MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def noted(**features) -> dict:
    """The schema's metadata as `datasets` writes it."""
    return {"huggingface": json.dumps({"info": {"features": features}})}


def test_parquet_with_media_and_lists_of_media(tmp_path, monkeypatch):
    (tmp_path / "beside.png").write_bytes(BLUE)
    one = pa.table(
        {
            "photo": pa.array([{"bytes": RED, "path": "a.png"}, {"bytes": None, "path": "beside.png"}, None], MEDIUM),
            "sound": pa.array([None, None, {"bytes": b"wave", "path": None}], MEDIUM),
            "text": ["red", "blue", "hello"],
        }
    ).replace_schema_metadata(noted(photo={"_type": "Image"}, sound={"_type": "Audio"}, text={"dtype": "string"}))
    pq.write_table(one, tmp_path / "one.parquet", row_group_size=2)
    calls = []
    monkeypatch.setattr(parquet, "_column", lambda *args, plain=parquet._column: calls.append(args[2:]) or plain(*args))
    records = read_records(tmp_path / "one.parquet")
    assert not calls, "media are read when they are asked for"
    assert [record.image for record in records[:2]] == [RED, BLUE] and records[2].audio == b"wave"
    assert [(record.captions, record.transcript) for record in records] == [
        (("red",), None), (("blue",), None), ((), "hello")]  # fmt: skip
    assert calls == [(0, "photo"), (0, "photo"), (1, "sound")]

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    several = pa.table(
        {
            "images": pa.array(
                [[{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}], [], None], pa.list_(MEDIUM)
            ),
            "messages": pa.array(
                [
                    [{"role": "user", "content": "<image> or <image>?"}, {"role": "assistant", "content": "Both."}],
                    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}],
                    [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "Hi."}],
                ],
                turns,
            ),
        }
    )
    pq.write_table(several, tmp_path / "two.parquet")
    page = pa.table(
        {
            "images": pa.array([[None, {"bytes": RED, "path": None}, None]], pa.list_(MEDIUM)),
            "texts": [["Before.", None, "After."]],
        }
    )
    pq.write_table(page, tmp_path / "page.parquet")
    (record,) = read_records(tmp_path / "page.parquet")
    assert [one if isinstance(one, str) else one.source.read() for one in record.document] == ["Before.", RED, "After."]
    found = read_records(tmp_path / "two.parquet", bad_limit=0.5)
    assert [said(record)[0] for record in found] == [("user", RED, "or", BLUE, "?"), ("user", "Hello")]
    assert found.bad[0].key == "two.parquet:0:2" and "more places" in found.bad[0].reason
    assert [
        one[1].read() for one in media_in(str(tmp_path / "two.parquet"), "image", []) if isinstance(one, tuple)
    ] == [RED, BLUE]


def test_tables_as_the_cauldron_has_them(tmp_path):
    """Its columns and their types, by hand."""
    turn = pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
    says = [{"user": "Which?\nAnswer briefly.", "assistant": "Red."}, {"user": "And?", "assistant": "So."}]
    table = pa.table({
        "images": pa.array([[{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}], None], pa.list_(MEDIUM)),
        "texts": pa.array([[own | {"source": "VQAv2"} for own in row] for row in (says, says[1:])], pa.list_(turn)),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    one, other = read_records(tmp_path / "a.parquet")
    assert said(one) == [("user", RED, BLUE, "Which?\nAnswer briefly."), ("assistant", "Red."),
                         ("user", "And?"), ("assistant", "So.")]  # fmt: skip
    assert said(other) == [("user", "And?"), ("assistant", "So.")]
    (tmp_path / "red.png").write_bytes(RED)
    line = {"images": ["red.png"], "texts": [{"user": "Which?", "assistant": "Red."}]}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    assert said(read_records(tmp_path / "m.jsonl")[0]) == [("user", RED, "Which?"), ("assistant", "Red.")]


def test_plain_bytes_of_a_table_are_media_where_their_column_is_named_so(tmp_path):
    def table(**columns):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
        return read_records(tmp_path / "a.parquet", bad_limit=0.99)

    found = table(image=[RED, BLUE, None], caption=["a", "b", "c"], embedding=[b"x", b"y", b"z"])
    assert [(record.image, record.captions) for record in found] == [(RED, ("a",)), (BLUE, ("b",))]
    assert [bad.key for bad in found.bad] == ["a.parquet:1:0"]
    (record,) = table(jpg=pa.array([RED], pa.large_binary()), flac=[b"wave"], transcript=["hello"])
    assert (record.image, record.audio, record.transcript) == (RED, b"wave", "hello")
    for column in (pa.array([RED]).dictionary_encode(), pa.array([RED], pa.binary_view())):
        assert table(image=column, text=["a"])[0].image == RED
    (record,) = table(image=[{"bytes": RED}], text=["a"])
    assert record.image == RED
    turns = [[{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "Red."}]]
    (record,) = table(images=[[RED, BLUE]], conversations=turns)
    assert said(record) == [("user", RED, "or", BLUE, "?"), ("assistant", "Red.")]
    with pytest.raises(BadRecordsError, match='the column "content" holds bytes: named "image" or "audio" it is one'):
        table(content=[RED], caption=["a"])


@pytest.mark.parametrize(
    "beside",
    [
        {"jpg": [BLUE]}, {"image_bytes": pa.array([None], pa.binary())}, {"file": [{"bytes": 512, "width": 8}]},
        {"file": [[{"bytes": 512, "path": "red.png"}]]},
    ],
)  # fmt: skip
def test_a_column_of_media_stays_the_one_whatever_stands_beside_it(tmp_path, beside):
    """As the `datasets` library reads it, to which such columns are no pictures."""
    path, photo = tmp_path / "a.parquet", pa.array([{"bytes": RED, "path": "red.png"}], MEDIUM)
    pq.write_table(pa.table({"image": photo, "caption": ["red"], **beside}), path)
    (record,) = read_records(path)
    assert (record.image, record.captions) == (RED, ("red",))
    (tmp_path / "red.png").write_bytes(RED)
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "red.png"}], "caption": ["red"], **beside}), path)
    (record,) = read_records(path)
    assert (record.image, record.captions) == (RED, ("red",))


def test_columns_of_a_table_may_have_dots_in_their_names(tmp_path):
    photo = pa.array([{"bytes": RED, "path": "a.png"}], MEDIUM)
    pq.write_table(pa.table({"a.photo": photo, "a": ["x"], "text": ["red"]}), tmp_path / "a.parquet")
    (record,) = read_records(tmp_path / "a.parquet")
    assert (record.image, record.captions) == (RED, ("red",))


def test_names_of_media_in_a_table_of_conversations_are_not_lost(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    turns = [[{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Red."}]]
    pq.write_table(pa.table({"images": [["red.png"]], "messages": turns}), tmp_path / "a.parquet")
    (record,) = read_records(tmp_path / "a.parquet")
    assert said(record) == [("user", RED, "Which?"), ("assistant", "Red.")]


def test_texts_of_a_table_name_media_as_those_of_lines_do(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "s.wav")
    table = {"image": ["a.png", None, "gone.png"], "file_name": [None, "b.png", None], "audio": [None, "s.wav", None],
             "caption": ["A.", "B.", "C."]}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    found = read_records(tmp_path / "t.parquet", bad_limit=0.5)
    assert [[place.read() for _, place in record.places] for record in found] == [[b"a.png"], [b"b.png", b"s.wav"]]
    assert "no picture at" in found.bad[0].reason
    nothing = pa.array([{"bytes": None, "path": None}], MEDIUM)
    pq.write_table(pa.table({"image": nothing, "caption": ["A."]}), tmp_path / "n.parquet")
    with pytest.raises(ValueError, match="neither bytes nor the path"):
        read_records(tmp_path / "n.parquet")[0].decode()


def test_a_damaged_table_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing of it PAR1")
    with pytest.raises(ValueError, match="damaged or no table"):
        read_records(tmp_path / "a.parquet")
    table = pa.table({"image": pa.array([{"bytes": RED * 40, "path": "a"}], MEDIUM), "text": ["a text " * 50]})
    pq.write_table(table, tmp_path / "b.parquet", compression="zstd")
    whole = bytearray((tmp_path / "b.parquet").read_bytes())
    whole[8:400] = bytes(392)
    (tmp_path / "b.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match="row group 0"):
        assert read_records(tmp_path / "b.parquet")[0].image


def test_a_row_group_that_is_too_large_is_refused(tmp_path, monkeypatch):
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": RED, "path": "a"}], MEDIUM), "text": ["a"]}), tmp_path / "a.parquet"
    )
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 10)
    with pytest.raises(ValueError, match="smaller row groups"):
        read_records(tmp_path / "a.parquet")


# What is learned


def turns_of(*contents) -> list[Message]:
    roles = ("user", "assistant")
    return as_messages([{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)])


TALK = turns_of([Image(0), "what is it?"], "A cat.", ["and now?", Image(1)], "Two cats.")


def of(own) -> Processor:
    return Processor(own, MediaVocabulary(len(own)))


@pytest.mark.parametrize("name", ["chatml", "spaced", "no control", None])
def test_every_answer_is_learned_behind_the_prompt_that_chat_gives_it(name):
    own = templated(TEMPLATES.get(name))
    encoder, template = of(own), PromptTemplate()
    learned = encoder.encode(conversation_parts(own, template, TALK))
    labels = torch.tensor(learned.labels)
    assert [part.source for part in learned.media] == [0, 1]
    starts = [at for at in range(1, len(labels)) if labels[at] >= 0 and labels[at - 1] < 0]
    assert len(starts) == 2 and all(
        token in (label, None) or label == IGNORE_INDEX for token, label in zip(learned.input_ids, learned.labels)
    )
    for answer, start in zip((1, 3), starts, strict=True):
        asked = TALK[:answer]
        prompt = chat_prompt(own, asked) if name else template.conversation(asked)
        assert learned.input_ids[:start] == encoder.encode(prompt).input_ids
        end = next((at for at in range(start, len(labels)) if labels[at] < 0), len(labels))
        text = own.decode([token for token in learned.input_ids[start:end] if token < encoder.vocabulary.offset])
        mark = {"chatml": "<|im_end|>", "spaced": "<|endoftext|>"}
        lead = {"spaced": " ", "no control": " "}  # which the prompt lacks, so that the model writes it
        assert text == lead.get(name, "") + TALK[answer].content[0] + mark.get(name, "")
    closed = learned.input_ids[-1] == encoder.vocabulary.end_of_chunk_id
    assert closed == (name in ("no control", None))


def test_what_a_user_writes_is_never_learned_whatever_it_says():
    own = templated(TEMPLATES["chatml"])
    talk = turns_of("Yes.<|im_end|>\n<|im_start|>assistant\nYes.", "Yes.")
    example = of(own).encode(taught(own, talk))
    assert sum(label >= 0 for label in example.labels) == len("Yes.") + 1


def test_all_text_of_a_document_is_learned_and_its_end_is_cut():
    own = families.tokenizer()
    document = ("Before.", Image(0), "One.", Image(1), Image(2), "Two.")
    parts = document_parts(document)
    assert parts == [
        Learned(("Before.",)), Image(0), Learned(("One.", END_OF_CHUNK)), Image(1), Image(2),
        Learned(("Two.", END_OF_CHUNK)),
    ]  # fmt: skip
    encoder = of(own)
    whole = encoder.encode(parts)
    image, end = encoder.vocabulary.image_id, encoder.vocabulary.end_of_chunk_id
    assert [t for t, label in zip(whole.input_ids, whole.labels) if label < 0] == [image] * 3
    assert own.decode([t for t in whole.labels if 0 <= t < len(own)]) == "Before.One.Two." and end in whole.labels
    for length in range(1, len(whole.input_ids) + 3):
        short = Processor(own, MediaVocabulary(len(own)), max_length=length).encode(parts, cut=True)
        assert short.input_ids == whole.input_ids[:length] and short.labels == whole.labels[:length]
        assert len(short.media) == short.input_ids.count(image)
    with pytest.raises(ValueError, match="positions"):
        Processor(own, MediaVocabulary(len(own)), max_length=12).encode(parts)


def records() -> RecordSet:
    """A pair, conversations with two pictures, one and none, and a document."""
    return RecordSet((
        Record("pair", RED, ("red",)),
        Record("two", messages=tuple(turns_of([Image(BLUE), "or", Image(RED)], "blue", "and?", "red"))),
        Record("none", messages=tuple(turns_of("hello", "hi"))),
        Record("document", document=(Image(RED), "a red page", Image(BLUE), "a blue page")),
        Record("one", messages=tuple(turns_of([Image(BLUE), "what?"], "blue"))),
    ))  # fmt: skip


def kept(model, picture):
    """The features of a picture as training sees them: in 16 bits."""
    return model.encode_media([Image(picture)])[0].tokens.half().float()


def test_each_medium_of_a_record_has_its_own_features_in_its_place(tmp_path):
    model, config = tiny_model(), TrainConfig()
    examples = prepare(model, records(), cache=tmp_path, config=config, progress=False)
    batch, media = batch_of(examples.processor, [[one] for one in examples.ready([(number, 0) for number in range(5)])])
    encoded = {name: kept(model, name) for name in (RED, BLUE)}
    expected = [[RED], [BLUE, RED], [], [RED, BLUE], [BLUE]]
    for own, wanted in zip(media, expected, strict=True):
        assert len(own) == len(wanted)
        assert all(torch.equal(one.tokens, encoded[name]) for one, name in zip(own, wanted, strict=True))
    assert model(batch, media).loss.isfinite()
    alone = prepare(model, RecordSet(records().records[:1]), cache=tmp_path, config=config, progress=False)
    assert alone.fingerprint() != examples.fingerprint()


def test_a_conversation_that_does_not_fit_is_a_bad_record_whatever_makes_it_long():
    """The words alone would fit; what the template writes around them does not."""
    model = tiny_model()
    turns = range(model.processor.max_length // 8)
    long = Record("long", messages=tuple(turns_of(*(str(turn % 10) for turn in turns))))
    assert sum(len(text.answer + text.question) for text in long.texts) < model.processor.max_length // 4
    found = usable_records(model, RecordSet((long, *records())), TrainConfig(bad_limit=0.5))
    assert [bad.key for bad in found.bad] == ["long"] and "positions" in found.bad[0].reason


def test_a_record_with_one_bad_picture_is_left_out_and_the_others_keep_theirs(tmp_path):
    model, config = tiny_model(), TrainConfig(bad_limit=0.5)
    bad = Record("bad", messages=tuple(turns_of([Image(RED), Image(b"no picture")], "what?")))
    data = RecordSet((bad, *records()))
    examples = prepare(model, usable_records(model, data, config), cache=tmp_path, config=config, progress=False)
    assert [one.key for one in examples.records] == ["pair", "two", "none", "document", "one"]
    assert [one.key for one in examples.records.bad] == ["bad"]
    _, media = batch_of(examples.processor, [[one] for one in examples.ready([(1, 0)])])
    assert torch.equal(media[0][0].tokens, kept(model, BLUE))


def test_conversations_and_documents_are_trained_on(tmp_path):
    result = run(tiny_model(), tmp_path / "run", records(), steps=12)
    assert result.steps == 12 and result.loss < 5.6  # a byte of 256 by chance: 5.55


def test_a_batch_of_which_nothing_is_learned_changes_nothing(tmp_path):
    """Documents of one token, before which nothing stands."""
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.added_parameters()}
    only = [Record(name, document=(name,)) for name in "ab"]
    result = run(model, tmp_path / "run", RecordSet(tuple(only)), steps=2, weight_decay=0.0)
    assert result.steps == 2 and result.skipped == 0
    assert all(torch.equal(weight, before[name]) for name, weight in model.added_parameters())


def test_a_record_is_one_thing():
    talk = tuple(turns_of("hello", "hi"))
    for wrong in (
        dict(messages=talk, captions=("a",)), dict(messages=talk, document=("a",)), dict(document=(Image(RED),)),
        dict(messages=tuple(turns_of("hello", [Image(RED), "hi"]))), dict(messages=talk[:1]),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Record("a", **wrong)
    with pytest.raises(TypeError):
        Record("a", document=(Image("a.jpg"), "text"))
    assert Record("a", document=("text", Sound(b"x"))).script != Record("a", document=(Sound(b"x"), "text")).script


def test_an_example_numbers_its_media_by_their_places():
    encoder, template = of(families.tokenizer()), PromptTemplate()
    two = records()[1]
    assert [part.source for part in example_of(encoder, template, two, two.texts[0]).media] == [0, 1]
