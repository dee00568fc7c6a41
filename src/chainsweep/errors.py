"""The errors a user can meet, each with the exit code the command line ends with.

A message says what was expected, what came, where (file, key, data set) and what to do.
"""


class ChainsweepError(Exception):
    """An internal error: a bug in chainsweep, or a file that changed while it was in use."""

    exit_code = 70


class UsageError(ChainsweepError):
    """The command was called in a way that cannot be carried out."""

    exit_code = 2


class InputError(ChainsweepError):
    """The user's input (configuration, model, data, campaign folder) cannot be used."""

    exit_code = 65


class ConfigError(InputError):
    """A configuration file is not valid."""


class ModelError(InputError):
    """The model file cannot be loaded, or the model lacks what is asked of it."""


class DataError(InputError):
    """A source of data sets cannot be read at all."""


class CalibrationError(InputError):
    """A trained network claims more than it knows, and the user has not allowed its use."""


class CampaignError(InputError):
    """A campaign folder is missing, incomplete, or no longer what was frozen."""


class UnavailableError(ChainsweepError):
    """A device, service or package that is needed is not available."""

    exit_code = 69


class StoppedEarly(ChainsweepError):
    """Work stopped before it was done; its state is saved and a second call continues."""

    exit_code = 75
