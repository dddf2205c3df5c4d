"""Measures of a model.

`evaluate` gives a whole Report. Its parts work alone: `score_captions` (CIDEr, BLEU-4, ROUGE-L), `picture_gap` (how
much the right picture lowers the loss, in nats), `retrieval_recall` and `word_error_rate`. `contact_sheet` draws
pictures with their texts.
"""

from mmlm.evaluation.captions import CaptionScores, score_captions
from mmlm.evaluation.contact_sheet import contact_sheet
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
    "contact_sheet",
    "evaluate",
    "picture_gap",
    "retrieval_recall",
    "score_captions",
    "word_error_rate",
]
