"""Renderings of what a run does (events, as they happen) and of what it came to (a `RunResult`, at the end).

Sinks of events:
- `log`: readable lines or JSON lines on stderr. The only door to structlog.
- `live`: the view on a terminal. The only door to rich.
- `lines`: JSON lines in a file, for the run's folder and `--events FILE`.

Renderings of results, pure functions that answer a string:
- `text`: the report on stdout.
- `problems`: what is wrong with a workflow file.
- `json_report`: the object of `--output json`.

They share `terminal` (what a stream can show), `wording` (how text, durations and values are written), `excerpt` (a
source line with a caret), `readable` (an event as a line), `progress` (events folded into a picture) and `encode`.
"""
