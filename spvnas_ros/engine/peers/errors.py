"""What can go wrong with another library, apart from the code that loads one."""


class PeerError(ValueError):
    """A library that is not installed, or that cannot do what was asked."""
