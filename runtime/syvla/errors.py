"""The errors that cross a boundary of this package; everything else is a bug."""


class SyvlaError(Exception):
    """Base of every error that a user of the runtime may meet."""


class MessageError(SyvlaError):
    """A message was refused: the text names the type, the field and what was expected."""


class ConfigError(SyvlaError):
    """A configuration value was refused: the text names the key and the valid choices."""


class DriverError(SyvlaError):
    """A device did not do what was asked of it."""


class TransportError(SyvlaError):
    """The bus could not be set up: an address, a permission or a limit."""


class RecordingError(SyvlaError):
    """A recording could not be written or read: the text names the file and the reason."""
