"""What the command line may set for every adapter of files."""

from __future__ import annotations

from pipeline.detectors.options import Option

PATTERNS = ("*.cbf", "*.tif", "*.tiff", "*.edf")

#: In the order of ``--help``.
FILE_OPTIONS = (
    Option(name="watch", help="directory to watch", unit="DIR", required=True),
    Option(
        name="patterns",
        default=",".join(PATTERNS),
        help="names of image files, separated by commas",
        unit="GLOBS",
    ),
    Option(name="recursive", type=bool, default=True, help="watch sub-directories, too"),
    Option(
        name="method",
        default="auto",
        help="how to learn of new files; auto polls on network file systems",
        choices=("auto", "inotify", "poll"),
    ),
    Option(
        name="poll_every_s",
        type=float,
        default=0.5,
        help="time between two looks when polling",
        unit="SECONDS",
    ),
    Option(
        name="name_pattern",
        default="",
        help="regular expression for names without extension, groups prefix and number",
        unit="REGEX",
    ),
    Option(
        name="grace_s",
        type=float,
        default=5.0,
        help="how long an unreadable file must stay unchanged to be quarantined",
        unit="SECONDS",
    ),
    Option(
        name="move_to",
        default="",
        help="where --after move puts files; default: 'published' in the watched directory",
        unit="DIR",
    ),
)
