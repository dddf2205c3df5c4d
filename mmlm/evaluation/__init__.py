"""Measures of a model: caption scores, what the picture is worth in nats, retrieval recall, word errors."""

from .captions import CaptionScores, score_captions
from .gap import PictureGap, picture_gap
from .report import AnswerScores, Report, evaluate
from .retrieval import RetrievalScores, retrieval_recall
from .words import word_error_rate

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
    "word_error_rate",
]
