"""Measures of a model: caption scores, what the picture is worth in nats, retrieval recall, word errors."""

from mmlm.evaluation.captions import CaptionScores, score_captions
from mmlm.evaluation.gap import PictureGap, picture_gap
from mmlm.evaluation.report import AnswerScores, Report, evaluate
from mmlm.evaluation.retrieval import RetrievalScores, retrieval_recall
from mmlm.evaluation.words import word_error_rate

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
