"""The second tier of evidence: what happens inside sessions, kept, sealed, read, searched."""

from gateway.adapters.recordings.files import RecordingFiles
from gateway.adapters.recordings.index import StatementIndex
from gateway.adapters.recordings.keys import Keyring
from gateway.adapters.recordings.recorder import FileRecorder, SpoolRecording
from gateway.adapters.recordings.spool import Disk
from gateway.adapters.recordings.writer import SpoolLimits

__all__ = ["Disk", "FileRecorder", "Keyring", "RecordingFiles", "SpoolLimits", "SpoolRecording", "StatementIndex"]
