"""Paired data: pictures with captions, and with questions and answers."""

from mmlm.data.readers import read_records
from mmlm.data.records import BadRecord, BadRecordsError, FileSlice, Record, RecordSet

__all__ = ["BadRecord", "BadRecordsError", "FileSlice", "Record", "RecordSet", "read_records"]
