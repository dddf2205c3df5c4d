"""Readers of paired data: `read_records` takes any source and returns one RecordSet.

`jsonl`, `tar`, `parquet`, `coco` and `vqa` each read one format, and `json_file` tells which one a .json is. `fields`
makes records of JSON fields, `conversations` and `documents` those of several turns or pictures (`forms` tells them
apart), and `paths` expands patterns.
A container that cannot be read to its end (a truncated tar, a JSON file that does not parse) is an error, because
nobody can say how many records it lost. A single record that cannot be used is counted and named instead; too many of
them are an error.
"""

from mmlm.data.readers.paths import expand
from mmlm.data.readers.read import read_records

__all__ = ["expand", "read_records"]
