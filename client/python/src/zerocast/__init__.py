"""Takes a rank's ZeRO-3 shard over from the zerocast agent of its node, without a copy."""

from zerocast.attach import AttachError, Partition, Shard, UnfilledError, attach

__all__ = ["AttachError", "Partition", "Shard", "UnfilledError", "attach"]
__version__ = "0.1.0"
