"""Takes a rank's ZeRO-3 shard over from the zerocast agent of its node, without a copy."""

from zerocast._dlpack import DeviceArray
from zerocast._errors import AttachError, UnfilledError
from zerocast.attach import Partition, Shard, attach

__all__ = ["AttachError", "DeviceArray", "Partition", "Shard", "UnfilledError", "attach"]
__version__ = "0.1.0"
