"""What records promise: who writes a module, and which numbers will not come any more.

A number is *passed* when, in its own partition, the floors of all modules' writers exceed it.  A
floor counts unless a newer writer's claim stands before it in that partition.
"""

from __future__ import annotations

from pipeline.records import NO_FLOOR, Located, Start


class Floors:
    """Claims and floors of a stream's writers, per module and partition, as far as it was read."""

    def __init__(self, start: Start) -> None:
        self.partitions = start.partitions
        self.chunk = start.frames_per_chunk
        self._modules = start.module_indices
        self._floors = [dict.fromkeys(self._modules, NO_FLOOR) for _ in range(start.partitions)]
        self._epochs: list[dict[int, int]] = [{} for _ in range(start.partitions)]
        self._reach = dict.fromkeys(self._modules, NO_FLOOR)
        #: Per partition: numbers below have been passed.
        self.lowest = [NO_FLOOR] * start.partitions
        #: Numbers below are acknowledged in all partitions, or will not come.
        self.reach = NO_FLOOR

    def observe(self, located: Located) -> bool:
        """Take note of a record; True if it lies behind the claim of a newer writer.

        Any record of an epoch proves its claim mark, which is the first of them in a partition:
        a reader that started in the middle need not have seen the mark itself.
        """
        value, partition = located.value, located.partition
        epochs = self._epochs[partition]
        epoch, module = value.epoch, value.module
        newest = epochs.get(module, epoch)
        if epoch < newest:
            return True
        epochs[module] = epoch
        floors = self._floors[partition]
        floor = value.floor
        if floor > floors.get(module, floor):
            floors[module] = floor
            self.lowest[partition] = min(floors.values())
            # A member of a group speaks only for itself, so not for other partitions.
            if not value.member and floor > self._reach[module]:
                self._reach[module] = floor
                self.reach = min(self._reach.values())
        return False

    def floor(self, module: int, partition: int) -> int:
        """Return the newest floor of a module's writer that a partition has shown."""
        return self._floors[partition].get(module, NO_FLOOR)

    def partition_of(self, number: int) -> int:
        """Return the partition where a frame is announced."""
        return (number // self.chunk) % self.partitions

    def passed(self, number: int) -> bool:
        """Tell whether ``number`` will not come any more, unless late."""
        return self.lowest[self.partition_of(number)] > number

    def not_passed(self, first: int, end: int) -> list[int]:
        """Return the partitions where some number with first <= number < end may still come."""
        if end <= first or min(self.lowest) >= end:
            return []
        return [
            partition
            for partition, floor in enumerate(self.lowest)
            if (last := self._last_below(end, partition)) >= first and floor <= last
        ]

    def _last_below(self, end: int, partition: int) -> int:
        """Return the highest number below ``end`` that belongs to the partition, or -1."""
        chunk = (end - 1) // self.chunk
        back = (chunk - partition) % self.partitions
        if not back:
            return end - 1
        return (chunk - back + 1) * self.chunk - 1 if chunk >= back else -1
