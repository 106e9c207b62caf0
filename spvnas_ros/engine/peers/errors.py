"""The error of other libraries, apart from the code that loads one."""

from spvnas_ros.errors import UserError


class PeerError(UserError):
    """The error for a library that is not installed, or that cannot run the network as asked."""
