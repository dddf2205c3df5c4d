"""Measures of a model: caption scores, what the picture is worth in nats, retrieval recall; `evaluate` prints them."""

from .captions import CaptionScores, score_captions
from .gap import PictureGap, picture_gap
from .report import AnswerScores, Report, evaluate
from .retrieval import RetrievalScores, retrieval_recall

__all__ = [
    "AnswerScores",
    "CaptionScores",
    "PictureGap",
    "Report",
    "RetrievalScores",
    "evaluate",
    "picture_gap",
    "retrieval_recall",
    "score_captions",
]
