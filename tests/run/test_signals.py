"""Signals as a request to stop, and what was there before them."""

from __future__ import annotations

import signal
import threading

import pytest

from medrd.run.signals import stop_on_signals


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_ctrl_c_again_stops_at_once(first: signal.Signals) -> None:
    before = handlers()
    with stop_on_signals() as stop:
        assert not stop
        signal.raise_signal(first)
        assert stop
        signal.raise_signal(signal.SIGTERM)  # a scheduler may repeat it
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_outside_the_main_thread_nothing_is_changed() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.append((handlers() == before, bool(stop)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
