"""What Kafka's programs on the JVM have in common: where they log, and what they inherit."""

from __future__ import annotations

import os
from pathlib import Path

# The output file gets warnings only and so stays small; the log rolls over.
_LOGGING = """\
status=warn
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}/{name}.log
appender.file.filePattern={log}/{name}.%i.log
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %c{{1}} %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{{1}} %m%n
appender.out.filter.level.type=ThresholdFilter
appender.out.filter.level.level=error
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
rootLogger.appenderRef.out.ref=out
"""


def logging_properties(name: str, log: Path) -> str:
    """Return log4j's settings: all of it in ``NAME.log``, which rolls, errors in the output."""
    return _LOGGING.format(name=name, log=log)


def environment() -> dict[str, str]:
    """Return our environment without options that are meant for other Java programs."""
    unwanted = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}
