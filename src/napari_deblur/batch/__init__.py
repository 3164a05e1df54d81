"""A recipe over many files, here or on a cluster: results and records side by side, what is done kept."""

from napari_deblur.batch.files import run_files
from napari_deblur.batch.outcome import BatchSettings, FileOutcome
from napari_deblur.batch.store import RECORD_SUFFIX, make_folder, stem

__all__ = ["RECORD_SUFFIX", "BatchSettings", "FileOutcome", "make_folder", "run_files", "stem"]
