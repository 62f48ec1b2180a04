"""How much audits say against each provider: e-values, which may be multiplied and stopped at any time (pure).

Each audit is worth e = 0.1 + 0.9·min(p1 ÷ p0, 110): under the hypothesis that a provider is honest its mean is at most
1, so that the product exceeds 1/α with a probability of at most α, however often one looks (Ville's inequality).
Sources: Grünwald, de Heide and Koolen, "Safe testing" (2024); Vovk and Wang, "E-values" (2021).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from mesh.verification.judge import Distance, tolerance

CAP: Final = 110.0
SUSPECT: Final = 10.0
"""From here on all of a provider's sessions are audited, as far as one looks at any, and it is routed around."""
CONVICTED: Final = 1e7
MOST_PEERS: Final = 4096
SHUN_SECONDS: Final = 3600.0
SHUNNED: Final = 1e12
"""How many times slower than it says a provider counts that is routed around: there where nobody else is."""
HONEST: Final = {"float32": (20.0, 0.7), "bfloat16": (3.0, 0.35), "float16": (3.0, 0.35)}
"""By wire dtype, how many times below the tolerance the honest typically are at most, and the standard deviation of the
natural logarithm of that: nearer to it and wider than what was measured."""


def likelihood_ratio(found: Distance, dtype: str, *, same: bool) -> float:
    """p1 ÷ p0 of a distance: cheats are anywhere from 1e-6 to 10, evenly in the logarithm; the honest log-normal."""
    if found.exact:
        return 0.0
    median, largest = tolerance(dtype, same)
    x = max(found.median / median, found.largest / largest)
    below, spread = HONEST[dtype]
    away = (math.log(max(x, 1e-12)) + math.log(below)) / spread
    honest = math.exp(-0.5 * min(max(away, 0.0) ** 2, 1400.0)) / (spread * math.sqrt(2 * math.pi))
    cheating = 1 / math.log(1e7)
    return cheating / max(honest, 1e-300)


def e_value(ratio: float) -> float:
    """What one audit is worth."""
    return 0.1 + 0.9 * min(ratio, CAP)


def grown(evidence: float, ratio: float) -> float:
    """What evidence comes to with one audit more: E ← e · max(E, 1)."""
    return min(e_value(ratio) * max(evidence, 1.0), 1e300)


@dataclass(slots=True)
class Standing:
    """What audits of one provider have come to."""

    evidence: float = 1.0
    audits: int = 0
    exact: int = 0
    differing: int = 0
    broken: int = 0
    """Links of its that did not hold."""
    shunned_until: float = -math.inf
    why: str = ""


class Evidence:
    """Standings of the providers that we have audited; those that were looked at longest ago are forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Standing] = OrderedDict()

    def of(self, peer: str) -> Standing:
        """A provider's standing, which is kept from now on."""
        found = self._known.pop(peer, None) or Standing()
        self._known[peer] = found
        while len(self._known) > MOST_PEERS:
            self._known.popitem(last=False)
        return found

    def known(self) -> dict[str, Standing]:
        """All of them."""
        return dict(self._known)

    def weigh(self, peer: str, ratio: float, why: str, now: float, *, exact: bool = False) -> Standing:
        """An audit has found `ratio` (p1 ÷ p0): E ← e · max(E, 1)."""
        found = self.of(peer)
        found.audits += 1
        found.exact += exact
        found.evidence = grown(found.evidence, ratio)
        if found.evidence > SUSPECT:
            found.differing += 1
            found.shunned_until, found.why = now + SHUN_SECONDS, why
        return found

    def link(self, peers: tuple[str, ...], why: str, now: float) -> None:
        """A link did not hold. Where it is one hop that contradicts itself or us, that is as good as an audit; of two
        neighbours nothing says which it was, and an honest one beside a cheat must not suffer."""
        for peer in peers:
            self.of(peer).broken += 1
        if len(peers) == 1:
            self.weigh(peers[0], CAP, why, now)

    def suspected(self, peer: str) -> bool:
        """Whether to audit all that it does."""
        found = self._known.get(peer)
        return found is not None and found.evidence > SUSPECT

    def factors(self, now: float) -> dict[str, float]:
        """Those that are routed around, as how many times slower they count."""
        return {peer: SHUNNED for peer, each in self._known.items() if each.shunned_until > now}
