"""Streams: sets that fit neither into memory nor, as features, on a disk.

`shards` finds tars, local or remote, and reads pieces of them; `index` tells where the records of a tar lie, and is
made once; `order` is the order of records, a pure function of the seed; `stream` has the records of each training step.
"""

from mmlm.data.streams.order import check_weights
from mmlm.data.streams.shards import Shard, UnreachableError, find_shards
from mmlm.data.streams.stream import Drawn, RecordStream

__all__ = ["Drawn", "RecordStream", "Shard", "UnreachableError", "check_weights", "find_shards"]
