"""Measures of a model.

`evaluate` gives a whole Report. Its parts work alone: `score_captions` (CIDEr, BLEU-4, ROUGE-L), `medium_gap` (how
much the right picture or recording lowers the loss, in nats), `retrieval_recall` and `word_error_rate`.
`contact_sheet` draws pictures with their texts.
"""

from mmlm.evaluation.contact_sheet import contact_sheet
from mmlm.evaluation.gap import MediumGap, medium_gap
from mmlm.evaluation.medium import AnswerScores, MediumReport, TranscriptScores
from mmlm.evaluation.metrics.captions import CaptionScores, score_captions
from mmlm.evaluation.metrics.retrieval import RetrievalScores, retrieval_recall
from mmlm.evaluation.metrics.words import word_error_rate
from mmlm.evaluation.report import Report, evaluate

__all__ = [
    "AnswerScores",
    "CaptionScores",
    "MediumGap",
    "MediumReport",
    "Report",
    "RetrievalScores",
    "TranscriptScores",
    "contact_sheet",
    "evaluate",
    "medium_gap",
    "retrieval_recall",
    "score_captions",
    "word_error_rate",
]
