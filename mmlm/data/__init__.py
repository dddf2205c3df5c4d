"""Paired data: pictures and recordings with captions, transcripts, questions and answers; conversations; documents.

`records` defines a Record and a RecordSet, `readers` read them from manifests, folders, tars and tables, `sampling`
chooses the examples of each training step, and `streams` does so for sets that are read while training goes on. `check`
counts what is in a source, `convert` writes it in another form. Of media alone, `find` says where they lie in such
sources, and `media` reads them into memory, for codecs.
"""

from mmlm.data.check import DataReport, check_data
from mmlm.data.convert import Converted, convert_data
from mmlm.data.readers import read_records
from mmlm.data.records import BadRecord, BadRecordsError, FileSlice, Record, RecordSet, RecordSource
from mmlm.data.sampling import ExampleStream

__all__ = [
    "BadRecord",
    "BadRecordsError",
    "Converted",
    "DataReport",
    "ExampleStream",
    "FileSlice",
    "Record",
    "RecordSet",
    "RecordSource",
    "check_data",
    "convert_data",
    "read_records",
]
