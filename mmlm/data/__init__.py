"""Paired data: pictures and recordings with captions, transcripts, questions and answers.

`records` defines a Record and a RecordSet, `readers` read them from manifests, folders, tars and COCO files, `sampling`
chooses the examples of each training step. Of media alone, `find` says where they lie in such sources, and `media`
reads them into memory, for codecs. The last loads torch, so it is imported by its own name.
"""

from mmlm.data.readers import read_records
from mmlm.data.records import BadRecord, BadRecordsError, FileSlice, Record, RecordSet, RecordSource
from mmlm.data.sampling import ExampleStream

__all__ = [
    "BadRecord",
    "BadRecordsError",
    "ExampleStream",
    "FileSlice",
    "Record",
    "RecordSet",
    "RecordSource",
    "read_records",
]
