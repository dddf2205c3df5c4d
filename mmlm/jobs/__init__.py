"""Work over many items that ends after any number of kills, with a row for each item.

`plan` cuts a data source into shards and says whose job a folder holds, `items` reads what lies in a shard, of tars at
addresses by `remote`, `leases` keeps two processes from the same shard, `parts` publishes a shard's rows whole or not
at all, `work` is the loop of a process, and `cluster` runs that loop on the nodes of Ray. What is done with an item is
none of their business.
"""

from mmlm.jobs.items import Item
from mmlm.jobs.plan import Job, Plan, open_job
from mmlm.jobs.work import Ranks, Totals, work

__all__ = ["Item", "Job", "Plan", "Ranks", "Totals", "open_job", "work"]
