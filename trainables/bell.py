"""What a search tells all of its slots at once."""

import ray


# All slots of a search ask it. If its process is lost, Ray starts it again, and the search tells it anew.
@ray.remote(num_cpus=0, max_restarts=-1)
class Bell:
    """Rung when the search is interrupted; and says which slots are to end when the cluster has no room for all."""

    def __init__(self) -> None:
        self._rung = False
        self._too_many, self._told = 0, 0

    def ring(self) -> None:
        self._rung = True

    def rung(self) -> bool:
        return self._rung

    def crowd(self, too_many: int, number: int) -> None:
        """So many slots are to end, of those that have no workers.

        Args:
            number: of what is told, from 1; the same is told again and again.
        """
        if number != self._told:
            self._too_many, self._told = too_many, number

    def gives_way(self) -> bool:
        """Whether the slot that asks, which has no workers, is to end."""
        self._too_many -= (gives_way := self._too_many > 0)
        return gives_way
