"""From a field's records to its answer: said first, kept afterwards.

1. The running release advises, or refuses with a reason. Whatever else it does counts as its failure: it is given up
   (``Release.fail``), and the release before answers in its place.
2. The answer goes to the board, for HTTP and MQTT.
3. ``keep`` hands it over to the journal, and to the outbox if it is worth its bytes, once all that arrived together is
   answered: nobody waits for the disk, and no writer's thread competes with an answer. A kill in between loses
   nothing, as all is answered again.
4. A release on trial is also asked about mornings before, until it has answered ``local.probation_advices`` of them,
   and is then confirmed. So a device that is switched off every night gets through a trial as well.

Times in advice come from the records, never from the clock: the same records always make the same messages.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import Any

from headland_edge.advisor import AdviceRefused
from headland_edge.board import Board, Said
from headland_edge.home import Settings
from headland_edge.journal import Entry, Journal, advice_id
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.records import Records
from headland_edge.release import Loaded, Release
from headland_edge.sync import clock_s

NO_RELEASE = "no release is installed on this device yet"
_EPOCH = date(1970, 1, 1)


class Advising:
    """Answers for the fields of one device.

    Args:
        settings: of it.
        release: that runs.
        board: where answers are said.
        journal: where they are kept.
        outbox: where messages to the cloud are kept.
        now_s: the system clock, for the journal only.
    """

    def __init__(
        self,
        settings: Settings,
        release: Release,
        board: Board,
        journal: Journal,
        outbox: Outbox,
        now_s: Callable[[], float],
    ) -> None:
        self._settings, self._release, self._board = settings, release, board
        self._journal, self._outbox, self._now_s = journal, outbox, now_s
        self._proved: set[tuple[str, date]] = set()
        self._proving = ""
        self._answered: list[tuple[Loaded, str, Records, Said]] = []

    def answer(self, field: str, records: Records) -> Said:
        """Answer for the last morning of ``records``; see the module."""
        while (loaded := self._release.loaded) is not None:
            try:
                said = _said(loaded, field, records)
            except Exception as error:  # a release may fail in any way, and none may take the service down
                reason = f"{type(error).__name__}: {error}"
                if self._release.fail(reason):
                    continue
                return self._say(field, {"date": records.last_date.isoformat(), "refused": f"release failed: {reason}"})
            self._say(field, said)
            self._answered.append((loaded, field, records, said))
            if self._release.on_trial:
                self._prove(loaded, field, records)
                if self._release.loaded is not loaded:
                    continue
            return said
        return self._say(field, {"date": records.last_date.isoformat(), "refused": NO_RELEASE})

    def keep(self) -> None:
        """Hand over what was answered."""
        for answered in self._answered:
            self._keep(*answered)
        self._answered.clear()

    def _say(self, field: str, said: Said) -> Said:
        self._board.say(field, said)
        return said

    def _keep(self, loaded: Loaded, field: str, records: Records, said: Said) -> None:
        plain = {key: value for key, value in said.items() if key != "advice_id"}
        entry = Entry(
            said["advice_id"],
            clock_s(self._now_s()),
            field,
            records.last_date,
            plain,
            loaded.lineage(),
            records,
        )
        self._journal.put(entry)
        if _worth_telling(said):
            self._outbox.put(_message(self._settings.device_id, field, said))

    def _prove(self, loaded: Loaded, field: str, records: Records) -> None:
        """Count this morning, and mornings before it as far as the trial needs them."""
        if self._proving != loaded.sha256:
            self._proving = loaded.sha256
            self._proved.clear()
        wanted = self._settings.local.probation_advices
        self._proved.add((field, records.last_date))
        for morning in range(records.n_mornings - 2, -1, -1):
            key = (field, records.date_of(morning))
            if len(self._proved) >= wanted:
                break
            if key not in self._proved:
                try:
                    with suppress(AdviceRefused):  # an answer as well
                        loaded.advisor.advise(records.until(morning))
                except Exception as error:  # as above
                    self._release.fail(f"{type(error).__name__}: {error}")
                    return
                self._proved.add(key)
        if len(self._proved) >= wanted:
            self._release.confirm()


def _said(loaded: Loaded, field: str, records: Records) -> Said:
    try:
        plain: dict[str, Any] = loaded.advisor.advise(records).to_dict()
    except AdviceRefused as refused:
        plain = {"date": records.last_date.isoformat(), "refused": refused.reason}
    return {**plain, "advice_id": advice_id(field, loaded.sha256, records)}


def _dose(said: Said) -> str:
    return "irrigation_mm" if "irrigation_mm" in said else "nitrogen_kg_ha"


def _worth_telling(said: Said) -> bool:
    """Whether an answer is worth its bytes on a metered link: something is to be done, or something was missing.

    Most mornings say "nothing today"; they stay in the journal, and health counts them.
    """
    return "refused" not in said and bool(said[_dose(said)] or said["fallbacks"])


def _message(device_id: str, field: str, said: Said) -> Message:
    day = date.fromisoformat(said["date"])
    body = {
        "advice_id": said["advice_id"],
        "field": field,
        "date": said["date"],
        "crop": said["crop"],
        _dose(said): said[_dose(said)],
        "release_counter": said["release"]["counter"],
        "fallbacks": said["fallbacks"],
    }
    return Message(device_id, "advice", clock_s((day - _EPOCH).days * 86_400.0), body)
