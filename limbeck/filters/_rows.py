"""What a filter reads: a row as `limbeck generate` writes it."""

from typing import Any

Row = dict[str, Any]
"""`prompt` and `response`, strings; `id`, unlike any other row's; `finish`, why the answer ended; `system`, and what stood beside the prompt."""
