"""How large a server on a cluster is."""

from dataclasses import dataclass

from decoders.values import check_kinds


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each has of a machine.

    replicas: at least. most: at most; beyond `replicas` there are as many as requests ask for. cpus, gpus: of each.
    """

    replicas: int = 1
    most: int = 1
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 1 <= self.replicas <= self.most:
            raise ValueError(
                f"replicas are 1 or more, and no more than max_replicas: not {self.replicas} of {self.most}"
            )
        if not self.cpus > 0:
            raise ValueError(f"replica_cpus must be above 0, not {self.cpus}")
        if not self.gpus >= 0:
            raise ValueError(f"gpus must be at least 0, not {self.gpus}")
