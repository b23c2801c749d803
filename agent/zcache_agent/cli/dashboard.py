# SPDX-License-Identifier: Apache-2.0
"""The live dashboard of zcache top. What it shows is asked for by a thread of its own: a device may take long."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.coordinate import Coordinate
from textual.geometry import Size
from textual.message import Message
from textual.widgets import DataTable, Static

from ..errors import ZcacheError
from ..gather import Gatherer, Moment
from . import panels
from .output import duration_text
from .panels import COLUMNS, Column, View
from .signals import ENDING

_NARROW = 80
"""Columns, from which on two panels stand side by side."""
_HIGH = 32
"""Lines, from which on the kernel's panel takes no other one's place."""
_SLOW_SECONDS = 2.0
"""An answer that takes longer is waited for visibly."""
_KEYS = "q leave   k zram and zswap   space hold   ↑ ↓ pool   PgUp PgDn scroll"
_MARK = "▶"

_CSS = """
Screen { overflow: hidden; }
#head { height: 1; text-style: bold; }
#state { height: 1; }
#state.problem { text-style: bold reverse; }
#keys { height: 1; text-style: dim; dock: bottom; }
#body { height: 1fr; scrollbar-size-vertical: 1; }
.row { height: auto; }
Static { text-wrap: nowrap; text-overflow: ellipsis; }
.panel { width: 1fr; height: auto; border-top: solid $primary; border-title-style: bold; padding: 0 1; }
#pools { height: auto; background: $background; border-top: solid $primary; border-title-style: bold; padding: 0 1; }
.narrow .row { layout: vertical; }
.hidden { display: none; }
"""


class Heard(Message):
    """A moment came."""

    def __init__(self, moment: Moment) -> None:
        super().__init__()
        self.moment = moment


class Failed(Message):
    """An exception that nobody foresaw ended the feed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Feed:
    """Asks for a moment at a time. A thread that ends with the process, whatever it waits for."""

    def __init__(self, app: "Dashboard", gatherer: Gatherer) -> None:
        self.asked_at: float | None = None
        """Since when an answer is waited for."""
        self._app = app
        self._gatherer = gatherer
        self._wanted = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Nothing, while an answer is waited for."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            self._wanted.set()

    def end(self) -> None:
        self._ends = True
        self._wanted.set()
        self._thread.join(0.5)

    def _run(self) -> None:
        try:
            while self._wanted.wait() and not self._ends:
                self._wanted.clear()
                self._app.post_message(Heard(self._gatherer.take(self._app.shown_pools)))
        except Exception as error:
            self._app.post_message(Failed(error))
        with contextlib.suppress(Exception):
            self._gatherer.close()


class Dashboard(App[None]):
    CSS = _CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", priority=True),
        Binding("k", "kernel"),
        Binding("space", "hold", priority=True),
        Binding("pageup", "scroll(-1)", priority=True),
        Binding("pagedown", "scroll(1)", priority=True),
    ]

    def __init__(self, gatherer: Gatherer, interval: float) -> None:
        # Without it, NO_COLOR would mean shades of grey.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self.view = View()
        self.failure: Exception | None = None
        self._gatherer = gatherer
        self._interval = interval
        self._feed: _Feed | None = None
        self._problem: Moment | None = None
        self._held = False
        self._selected = ""
        self._columns: Sequence[Column] = ()

    # ---- what there is ----

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="state")
        with VerticalScroll(id="body", can_focus=False):
            with Horizontal(classes="row"):
                yield self._panel("memory", "Memory")
                yield self._panel("rates", "A second")
            yield self._panel("kernel", "zram and zswap")
            with Horizontal(classes="row", id="details"):
                yield self._panel("refusals", "Refused puts")
                yield self._panel("histogram", "Zpages by size")
            table: DataTable[Text] = DataTable(id="pools", cursor_type="row", cell_padding=0, zebra_stripes=False)
            table.border_title = "Pools"
            yield table
        yield Static(Text(_KEYS), id="keys")

    def _panel(self, name: str, title: str) -> Static:
        panel = Static(id=name, classes="panel")
        panel.border_title = title
        return panel

    def on_mount(self) -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            for ending in ENDING:
                asyncio.get_running_loop().add_signal_handler(ending, self.exit)
        self._feed = _Feed(self, self._gatherer)
        self._arrange(self.size)
        self.screen.set_focus(self.query_one("#pools"), scroll_visible=False)
        self._feed.ask()
        self.set_interval(self._interval, self._tick)
        self.set_interval(1.0, self._show_state)

    def on_unmount(self) -> None:
        if self._feed:
            self._feed.end()

    # ---- what happens ----

    def _tick(self) -> None:
        if self._feed and not self._held:
            self._feed.ask()

    def shown_pools(self, pools: Sequence[str]) -> list[str]:
        """Whose histogram is looked at. Called by the feed."""
        if self._selected in pools:
            return [self._selected]
        return list(pools[:1])

    def on_heard(self, heard: Heard) -> None:
        assert self._feed
        self._feed.asked_at = None
        self._problem = None if heard.moment.is_up else heard.moment
        self.view.add(heard.moment)
        self._show()

    def on_failed(self, failed: Failed) -> None:
        self.failure = failed.error
        self.exit()

    def on_resize(self, resized: events.Resize) -> None:
        self._arrange(resized.size)
        # The panels have their new sizes only after the next layout.
        self.call_after_refresh(self._show)

    def on_data_table_row_highlighted(self, chosen: DataTable.RowHighlighted) -> None:
        if chosen.row_key.value and chosen.row_key.value != self._selected:
            self._selected = chosen.row_key.value
            self._mark()
            if self._feed and not self._held:
                self._feed.ask()

    def action_kernel(self) -> None:
        self._gatherer.with_kernel = not self._gatherer.with_kernel
        self._arrange(self.size)
        self.call_after_refresh(self._show)
        if self._feed:
            self._feed.ask()

    def action_hold(self) -> None:
        self._held = not self._held
        self._show_state()

    def action_scroll(self, way: int) -> None:
        body = self.query_one("#body")
        if way < 0:
            body.scroll_page_up(animate=False)
        else:
            body.scroll_page_down(animate=False)

    # ---- what is shown ----

    def _arrange(self, size: Size) -> None:
        """By the size of the terminal."""
        kernel = self._gatherer.with_kernel
        self.screen.set_class(size.width < _NARROW, "narrow")
        self.query_one("#kernel").set_class(not kernel, "hidden")
        self.query_one("#details").set_class(kernel and size.height < _HIGH, "hidden")
        room = size.width - 4 - len(_MARK)
        columns = [column for column in COLUMNS if not column.wide]
        if room >= sum(column.width + 1 for column in COLUMNS):
            columns = list(COLUMNS)
        if columns != self._columns:
            self._columns = columns
            table = self.query_one("#pools", DataTable)
            table.clear(columns=True)
            table.add_column(" ", width=1)
            for column in columns:
                title = column.title.rjust(column.width) if column.right else column.title
                table.add_column(Text(" " + title), width=column.width + 1, key=column.title)

    def _show(self) -> None:
        self._show_state()
        view = self.view
        if not view.now:
            return
        self.query_one("#head", Static).update(self._head())
        for name, draw in (("memory", panels.memory), ("rates", panels.rates_panel)):
            self._put(name, draw(view, self._width(name)))
        height = max(4, min(12, self.size.height - 18))
        self._put("refusals", panels.refusals(view, self._width("refusals"), height))
        self._show_histogram(height)
        if self._gatherer.with_kernel:
            self._put("kernel", panels.kernel_panel(view.now.kernel, view.page_size or 4096))
        self._show_pools()

    def _width(self, name: str) -> int:
        return max(20, self.query_one(f"#{name}").content_size.width)

    def _put(self, name: str, text: Text) -> None:
        self.query_one(f"#{name}", Static).update(text)

    def _head(self) -> Text:
        now = self.view.now
        assert now
        parts = ["zcache top", now.serial]
        if now.is_up:
            up = duration_text(int(now.number("uptime_ms")))
            parts += [f"zcached {now.values.get('version')}, up {up}", f"pages of {self.view.page_size} bytes"]
        return Text("  ".join(parts))

    def _show_state(self) -> None:
        state = self.query_one("#state", Static)
        problem = self._problem.problem if self._problem else None
        state.set_class(problem is not None, "problem")
        state.update(Text(self._problem_text(problem) if problem else self._state_text()))

    def _problem_text(self, problem: ZcacheError) -> str:
        """On one line: of a long one, its beginning and end."""
        text, room = f"! {problem.message}", max(20, self.size.width)
        if len(text) > room:
            half = (room - 1) // 2
            return f"{text[: room - 1 - half]}…{text[-half:]}"
        whole = f"{text} ({problem.hint})" if problem.hint else text
        return whole if len(whole) <= room else text

    def _state_text(self) -> str:
        if self._held:
            return "held: space goes on"
        waited = time.monotonic() - self._feed.asked_at if self._feed and self._feed.asked_at else 0.0
        if waited > _SLOW_SECONDS:
            return f"no answer for {waited:.0f} s"
        if not self.view.now:
            return "asking the device"
        return f"{time.strftime('%H:%M:%S', time.localtime(self.view.now.time))}, every {self._interval:g} s"

    def _show_histogram(self, height: int) -> None:
        assert self.view.now
        panel = self.query_one("#histogram", Static)
        shown = next(iter(self.view.now.histograms.items()), None)
        if not shown:
            self._put("histogram", Text("no pool"))
            return
        pool, counts = shown
        panel.border_title = Text(f"Zpages by size: {pool}").markup
        self._put("histogram", panels.histogram(counts, self.view.page_size, self._width("histogram"), height))

    def _show_pools(self) -> None:
        table = self.query_one("#pools", DataTable)
        pools = self.view.pools
        table.border_title = "Pools" if pools else "Pools: none"
        if [str(key.value) for key in table.rows] != pools:
            self._fill(table, pools)
            return
        for row, pool in enumerate(pools):
            for at, column in enumerate(self._columns, 1):
                table.update_cell_at(Coordinate(row, at), self._cell(column, pool))

    def _fill(self, table: "DataTable[Text]", pools: Sequence[str]) -> None:
        """Rows anew; the pool that was selected stays so, if it is there still."""
        selected = self._selected
        table.clear()
        for pool in pools:
            table.add_row(Text(""), *(self._cell(column, pool) for column in self._columns), key=pool)
        if selected in pools:
            table.move_cursor(row=pools.index(selected))
        self._selected = selected if selected in pools else (pools[0] if pools else "")
        self._mark()

    def _cell(self, column: Column, pool: str) -> Text:
        text = column.cell(self.view, pool)[: column.width]
        return Text(" " + (text.rjust(column.width) if column.right else text))

    def _mark(self) -> None:
        """The selected pool, for who sees no colour."""
        table = self.query_one("#pools", DataTable)
        for row, key in enumerate(table.rows):
            table.update_cell_at(Coordinate(row, 0), Text(_MARK if key.value == self._selected else ""))
