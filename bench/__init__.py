"""The gateway and its peers side by side: `python -m bench`, one Markdown table. See docs/performance.md."""
