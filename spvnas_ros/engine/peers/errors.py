"""The error of other libraries, apart from the code that loads one."""


class PeerError(ValueError):
    """The error for a library that is not installed, or that cannot run the network as asked."""
