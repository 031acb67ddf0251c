"""Folders on disk that hold runs, and which there are under a folder."""

import os
from pathlib import Path
from typing import NamedTuple

from analysis.record import run_folder

OF_A_RUN = {run_folder.SETTINGS, run_folder.ENVIRONMENT, run_folder.SUMMARY, run_folder.METRICS, run_folder.CHECKPOINT}
SWEEP_FILES = {run_folder.SWEEP_FILE, run_folder.STUDY, run_folder.FINAL_RESULT, run_folder.BEST_RECIPE}


class Found(NamedTuple):
    """What there is under a runs folder."""

    runs: list[Path]  # folders of runs: those that hold settings
    others: list[Path]  # folders that hold neither a run nor a sweep, nor are a trial's that has not begun yet


class Held(NamedTuple):
    """What a folder holds."""

    files: set[str]  # names of all that is no folder
    folders: list[Path]
    links: list[Path]  # that lead to folders


def find_run_folders(root: Path) -> Found:
    """Return all run folders under a folder, at any depth, each once.

    Links are followed last, and those among the sweeps before the others, so that a link to a trial, or to a whole
    sweep, does not take the place of the trial itself.
    """
    seen: set[tuple[int, int]] = set()
    found, links = walk(root, seen)
    while links:
        links.sort(key=lambda link: (link.parent.name != run_folder.SWEEPS, link))
        inner, further = walk(links.pop(0), seen)
        found.runs.extend(inner.runs)
        found.others.extend(inner.others)
        links += further
    return Found(sorted(found.runs), sorted(found.others))


def walk(top: Path, seen: set[tuple[int, int]]) -> tuple[Found, list[Path]]:
    """Look through a folder and all folders in it, at any depth, without following links.

    Args:
        top: the folder.
        seen: device and inode of each folder that has been looked through, which are left out; those of this call are
            added.

    Returns:
        The runs and the other folders that were found, and the links to folders, for the caller to follow.
    """
    walked: dict[Path, Held] = {}
    to_walk = [top]
    while to_walk:
        folder = to_walk.pop()
        if held := look_into(folder, seen):
            walked[folder] = held
            to_walk += held.folders
    runs = [folder for folder, held in walked.items() if run_folder.SETTINGS in held.files]
    # Folders with links are useful, too: what is wrong with those that the links lead to is said of these.
    useful = {*runs, *(folder for folder, held in walked.items() if held.links or held.files & SWEEP_FILES)}
    for folder, held in reversed(walked.items()):  # from the innermost outwards
        if not useful.isdisjoint(held.folders):
            useful.add(folder)
    parents = useful.difference(runs)  # what else there is in a run is its own
    sweeps = {folder for folder, held in walked.items() if held.files & SWEEP_FILES}
    begun = {folder for folder, held in walked.items() if held.files & OF_A_RUN or folder.parent not in sweeps}
    others = [folder for folder in begun - useful if folder == top or folder.parent in parents]
    return Found(runs, others), [link for held in walked.values() for link in held.links]


def look_into(folder: Path, seen: set[tuple[int, int]]) -> Held | None:
    """Return what a folder holds; None for one that has been walked already.

    The folders within a run are left out, but for a run that is called as the folder of the sweeps is.

    Args:
        folder: where to look.
        seen: device and inode of each folder that has been walked; this one joins them.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            kinds = {entry.name: (entry.is_dir(), entry.is_symlink()) for entry in entries}
    except OSError:  # not ours to read, or deleted since
        return Held(set(), [], [])
    if (status.st_dev, status.st_ino) in seen:
        return None
    seen.add((status.st_dev, status.st_ino))
    files = {name for name, (is_folder, _) in kinds.items() if not is_folder}
    if run_folder.SETTINGS in files and folder.name != run_folder.SWEEPS:
        return Held(files, [], [])
    inner = {folder / name: is_link for name, (is_folder, is_link) in kinds.items() if is_folder and name[0] != "."}
    return Held(files, [one for one in inner if not inner[one]], [one for one in inner if inner[one]])
