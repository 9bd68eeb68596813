"""Groups of commands that know what a typo meant."""

from __future__ import annotations

import difflib

import click

from llama_gossip.errors import UsageError


class SuggestingGroup(click.Group):
    """Refuses an unknown command with the nearest one that exists."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"commands are: {', '.join(known)}"
            raise UsageError(f"there is no command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)
