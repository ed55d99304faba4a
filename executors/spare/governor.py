"""How many offline requests a server can carry beside its online users, set anew after each reading of it.

Three things are learnt while it runs, none of them known before:
- how long a step takes with so many requests (`response`);
- how far what came went beyond what was foretold a reading earlier (bursts, noise, hiccups): its quantile is the surcharge, and
  what it was in the last seconds comes on top (the machine has become slower, or others have become more);
- which share of the online requests missed the goal. `margin` follows it as in adaptive conformal inference (Gibbs and Candes,
  2021): each request that missed lowers it, each that did not raises it by so much less that in the long run the wanted share
  misses, whatever the server and its load are like.

The cap is the largest number whose expected step, surcharge included, stays under the goal times the margin. It grows by steps
and falls at once: on requests that wait, on preemptions, on KV space that fills up.

Servers of embeddings take no steps that decode. Of these a request's whole stay is what is learnt, with so many there at once,
and what the first token was promised in is its goal. Of a server that tells neither hardly anything is let in beside its users.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.response import StepModel
from batchsched.executors.spare.window import Window

GROWTH = 1.5
"""Of the cap from one reading to the next, at most; each level is seen before the next is tried."""
IDLE_S = 3.0
"""Without an online request for so long, and longer than nearly all pauses lately, the server is opened fully."""
KV_FULL, KV_HOLD = 0.8, 0.65
_LEARNING = 0.03
_EASE, _EASE_BACK, _EASE_LOST = 5.0, 0.0005, 0.5
"""How much faster the margin rises while none has missed; less for each that did, until several thousand have not."""
_MISSING = 0.3
_MARGIN = (0.05, 1.5)
_FIRST_MARGIN = 0.6
_SURCHARGE_AT = 0.9
_SOME_OVER = 1.15
_REMEMBERED = 400
_LATELY = 0.2
_PAUSES = 50
_FIRSTS = 300
_STRAYS = 200
_FEW_STRAYS = 20
_BLIND_S = 10.0
_FEW_TOKENS = 8
_UNKNOWN_MOST = 4.0
"""Requests at a server of which nothing can be learnt: only those that wait tell that it is too much."""
READING_SHARE = 0.25
"""Of the server's time for reading our prompts, while somebody is online."""


class Goal(msgspec.Struct, frozen=True):
    """What online users are promised: of `share` of the requests the first token in `ttft_s`, further ones each in `tpot_s`."""

    ttft_s: float = 1.0
    tpot_s: float = 0.1
    share: float = 0.99


class Budget(msgspec.Struct, frozen=True):
    """What may be at the server at once, of all offline workers together."""

    in_flight: int = 0
    """Requests."""
    keep: int = 0
    """More than these are pushed out at once; what lies between the two may end in peace."""
    open: bool = False
    """Nobody is online: prompts need not wait for each other."""
    prompt_token_s: float = 0.0
    """Seconds that the server needs for a prompt's token, so far as it is known."""
    slack_s: float = 0.0
    """By how much a single step may be longer without harm."""
    harm_share: float = 0.0025
    """Of the time, how much may be harmed by prompts that are longer than the slack allows."""
    reading_share: float = READING_SHARE
    """Of the server's time, how much it may read our prompts while somebody is online."""
    why: str = "nothing is known yet"


class Traits(msgspec.Struct, frozen=True):
    """Mean tokens of the offline requests that wait to be sent: prompt, and answer."""

    prompt_tokens: float = 64.0
    output_tokens: float = 64.0


class Governor:
    """Sets the budget. Knows no clock and no network: readings come in as windows, and failed ones by their age."""

    def __init__(self, goal: Goal, ceiling: int) -> None:
        self.goal, self.ceiling = goal, ceiling
        self.model = StepModel()
        self.budget = Budget()
        self.fits = 0.0
        """Requests that the server could carry by what is known, were each level tried already."""
        self.margin = _FIRST_MARGIN
        self.missed = self.seen = 0.0
        """Online requests that missed the goal so far, as the engine's figures tell, and all of them."""
        self.missed_each = self.missed_first = 0.0
        self._firsts = Histogram()
        self._cap = 1.0
        self._ratios: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._strays: deque[float] = deque(maxlen=_STRAYS)
        self._ease = _EASE
        self._slower = 1.0
        self._slots = math.inf
        self._served = 0.0
        self._queued = False
        self._pauses: deque[float] = deque(maxlen=_PAUSES)
        self._online = 0.0
        self.online_prompt = 0.0
        """Tokens of online users' prompts in a step, lately."""
        self._busy_at: float | None = None
        self.lasting_s = 0.0
        self._held_until = -math.inf
        self._only_reads = False

    def see(self, window: Window, traits: Traits) -> Budget:
        """A reading came: learn from it and decide."""
        if window.only_reads != self._only_reads:
            self._learns_anew(only_reads=window.only_reads)
        foretold = self._foretold(window)
        if window.step:
            self.model.learn(window.step)
        well = self._judge(window, foretold)
        idle = self._idle(window)
        target, why = self._target(window, traits)
        if idle:
            target, why = float(self.ceiling), "nobody is online"
        cut = self._alarm(window)
        if cut < 1.0:
            target, why = min(target, self._cap, max(1.0, window.ours)) * cut, "the server is short of room"
            self._held_until = window.at_s + 1.0
        self.fits = min(target, float(self.ceiling))
        may_grow = idle or (well and window.kv_used < KV_HOLD and window.at_s >= self._held_until)
        highest = max(2.0, self._cap * GROWTH, self._cap + 1) if may_grow else self._cap
        if window.ours < 0.5 * self._cap:  # a level that was not used was not tried
            highest = min(highest, max(self._cap, 2.0))
        self._cap = max(0.0, min(self.fits, highest))
        self._online, self.online_prompt = self._expected_online(window), self._prompts_of_others(window)
        self.budget = self._told(window, idle, cut, why, traits)
        return self.budget

    def _learns_anew(self, *, only_reads: bool) -> None:
        """What was learnt as that of steps is that of stays, or the other way round."""
        self._only_reads, self.model = only_reads, StepModel()
        self._ratios.clear()
        self.lasting_s, self._slower, self._slots, self._cap = 0.0, 1.0, math.inf, min(self._cap, 1.0)

    def answered(self, seconds: float, tokens: int) -> None:
        """One of our requests came back after so long with so many tokens: how far single requests stray from the mean. They are
        the only ones whose whole life is seen here, and they live in the same steps as the online ones."""
        if tokens < _FEW_TOKENS or self.lasting_s <= 0:
            return
        each_s = (seconds - (self._firsts.mean or self.lasting_s)) / (tokens - 1)
        self._strays.append(max(-0.9, each_s / self.lasting_s - 1.0))

    def blind(self, age_s: float, period_s: float) -> Budget:
        """No reading came: what is known is `age_s` old. Shrink, hold a floor, and after ten seconds stop."""
        if age_s > _BLIND_S:
            self._cap = 0.0
        elif age_s > 2 * period_s:
            self._cap = max(min(1.0, self._cap), self._cap * 0.6)
        self.budget = msgspec.structs.replace(
            self.budget, in_flight=int(self._cap), keep=self._kept_blindly(age_s), open=False, why=f"no reading for {age_s:.1f} s"
        )
        return self.budget

    def _kept_blindly(self, age_s: float) -> int:
        return 0 if age_s > _BLIND_S else self.ceiling

    def restarted(self) -> Budget:
        """The server began anew: it may be another one. What was learnt fades as it shows that."""
        self._cap = min(self._cap, 1.0)
        self._busy_at = None
        self.budget = msgspec.structs.replace(
            self.budget, in_flight=int(self._cap), keep=self.ceiling, open=False, why="the server began anew"
        )
        return self.budget

    # What was foretold, and what came.

    def _foretold(self, window: Window) -> float | None:
        """Seconds of a step in this window, as it could be expected at its beginning."""
        if not self.model.known or not window.step:
            return None
        return self.model.seconds(self._online + window.ours, self.online_prompt + window.our_prompt_tokens)

    def _judge(self, window: Window, foretold: float | None) -> bool:
        """Weigh what the online requests of the window saw against the goal; is all well?"""
        many = window.arrived
        if window.step and foretold:
            ratio = window.step.seconds / foretold
            self._ratios.append((ratio, many + 0.01))
            self._slower += _LATELY * (ratio - self._slower)
        late_each, late_first = self._late_steps(window), self._late_first(window)
        self.missed_each += late_each * many
        self.missed_first += late_first * many
        missed = min(1.0, late_each + late_first) * many
        self.missed += missed
        self.seen += many
        wanted = _MISSING * (1.0 - self.goal.share)
        blame = self._blame(window)
        self._ease = min(_EASE, max(1.0, (self._ease + _EASE_BACK * many) * _EASE_LOST ** (missed * blame)))
        self.margin *= math.exp(_LEARNING * max(-20.0, self._ease * wanted * many - missed * blame))
        self.margin = min(_MARGIN[1], max(_MARGIN[0], self.margin))
        return (late_each + late_first) * blame < 1.0 - self.goal.share

    def _late_steps(self, window: Window) -> float:
        """Did requests decode too slowly? The mean over as long as one lives, for it is its mean that users feel."""
        if not window.step or window.only_reads:
            return 0.0
        lives_s = window.online / (window.arrived / window.seconds) if window.arrived else window.seconds
        fresh = min(1.0, window.seconds / max(lives_s, window.seconds))
        self.lasting_s = (
            window.step.seconds if self.lasting_s == 0 else self.lasting_s + fresh * (window.step.seconds - self.lasting_s)
        )
        if len(self._strays) < _FEW_STRAYS:
            return 1.0 if self.lasting_s > self.goal.tpot_s else 0.0
        return sum(self.lasting_s * (1.0 + stray) > self.goal.tpot_s for stray in self._strays) / len(self._strays)

    def _late_first(self, window: Window) -> float:
        """The share whose first token came late, over the last few hundred: a single reading has too few to tell."""
        fresh = window.first_token
        keep = max(0.0, 1.0 - fresh.count / _FIRSTS)
        self._firsts = self._firsts.plus(fresh, keep) if fresh.count else self._firsts
        seen = self._firsts
        return seen.above(self.goal.ttft_s) / seen.count if seen.count >= 20 else 0.0

    def _blame(self, window: Window) -> float:
        """Our part of what a step takes, twofold and at most all of it: what the server misses alone must not shut us out."""
        if not window.step:
            return 0.0
        ours_s = self.model.per_decode_s * window.ours + self.model.per_prompt_token_s * window.our_prompt_tokens
        return min(1.0, 2 * ours_s / max(window.step.seconds, 1e-9))

    # What may come.

    def _target(self, window: Window, traits: Traits) -> tuple[float, str]:
        """The largest number whose expected step stays under the goal."""
        if not self.model.known:
            return min(self._cap + 1, _UNKNOWN_MOST), "the server is being learnt"
        goal_s = self.goal.ttft_s if self._only_reads else self.goal.tpot_s
        room_s = goal_s * self.margin / (self.surcharge() * max(1.0, self._slower))
        model = self.model
        per_request_s = model.per_decode_s + model.per_prompt_token_s * traits.prompt_tokens / max(1.0, traits.output_tokens)
        taken_s = model.seconds(self._expected_online(window), self._prompts_of_others(window))
        by_goal = max(0.0, (room_s - taken_s) / max(per_request_s, 1e-9))
        by_slots = max(0.0, 0.9 * self._slots - 1.5 * self._expected_online(window))
        return (by_goal, "the goal") if by_goal <= by_slots else (by_slots, "the places in the engine")

    def surcharge(self) -> float:
        """What the steps took over what was foretold, at its high quantile among online requests; never below 1."""
        if len(self._ratios) < 10:
            return 1.3
        ordered = sorted(self._ratios)
        wanted = _SURCHARGE_AT * sum(weight for _, weight in ordered)
        for ratio, weight in ordered:
            wanted -= weight
            if wanted <= 0:
                return max(1.0, ratio)
        return max(1.0, ordered[-1][0])

    def _expected_online(self, window: Window) -> float:
        return max(window.online, 0.5 * (window.online + self._online))

    def _prompts_of_others(self, window: Window) -> float:
        if not window.step:
            return self.online_prompt
        fresh = max(0.0, window.step.prompt_tokens - window.our_prompt_tokens)
        return self.online_prompt + 0.2 * (fresh - self.online_prompt)

    def _idle(self, window: Window) -> bool:
        """Has nobody been online for long enough to open fully?"""
        if window.surely_online >= 1 or window.arrived >= 1:
            if self._busy_at is not None and window.at_s - self._busy_at > 1.5 * window.seconds:
                self._pauses.append(window.at_s - self._busy_at)
            self._busy_at = window.at_s
            return False
        if self._busy_at is None:
            self._busy_at = window.at_s
        pauses = sorted(self._pauses)
        usual_s = pauses[int(0.9 * len(pauses))] if len(pauses) >= 5 else 0.0
        return window.at_s - self._busy_at >= max(IDLE_S, min(usual_s, 60.0))

    def _alarm(self, window: Window) -> float:
        """By which factor to cut at once; 1 where nothing is wrong."""
        if window.kv_used > KV_FULL or window.preempted > 0:
            return 0.5
        self._slots *= 1.0003  # what was learnt by a wrong sign is forgotten in an hour
        if window.only_reads and window.step and window.step.seconds < self.margin * self.goal.ttft_s / 2:
            return 1.0  # there all wait from step to step, which is part of their stay
        long = window.waiting >= max(2.0, 0.1 * window.served)
        again, self._queued = long and self._queued, long
        if not window.waiting:
            self._served = max(0.999 * self._served, window.served)
        if again or (long and window.waiting > 0.3 * window.served + 3):
            # Not for want of tokens or KV space: there is no further place. Who only reads has as many as a step takes.
            if window.served >= 0.8 * self._served and not window.only_reads:
                self._slots = min(self._slots, max(2.0, window.served))
            return 0.7
        return 1.0

    def _kept(self, short: bool) -> int:
        """A little more than the cap: what ends by itself in a moment need not be pushed out, at the cost of what it has done."""
        cap = math.ceil(self._cap)
        return cap if short else min(self.ceiling, math.ceil(_SOME_OVER * cap) + 1)

    def _told(self, window: Window, idle: bool, cut: float, why: str, traits: Traits) -> Budget:
        step_s = window.step.seconds if window.step else self.model.seconds(window.online + window.ours, 0)
        first_s = self.goal.ttft_s - (self._firsts.quantile(0.8) or step_s)
        prompt_token_s = self.model.per_prompt_token_s
        slack_s = max(1.5 * step_s, min(first_s, _FEW_TOKENS * (self.goal.tpot_s - step_s)) * min(1.0, self.margin))
        if self._only_reads:  # one more there lengthens a stay by what it takes to read it
            prompt_token_s = self.model.per_decode_s / max(1.0, traits.prompt_tokens)
            slack_s = max(1.5 * self.model.per_decode_s, first_s * min(1.0, self.margin))
        return Budget(
            in_flight=int(self._cap),
            keep=self._kept(cut < 1.0),
            open=idle,
            prompt_token_s=prompt_token_s if self.model.known else 1e-4,
            slack_s=slack_s,
            harm_share=(1.0 - self.goal.share) / 4,
            reading_share=1.0 if self._only_reads else READING_SHARE,  # there the cap says it all
            why=why,
        )
