"""Twelve common claims on monoliths and microservices, each judged by measurements.

A verdict (holds, holds in part, does not hold, not measured) is a function of two documents, those of
benchmarks.compare and benchmarks.operation. Differences are judged by their 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.wording import Locale

HOLDS, PARTLY, FAILS, UNMEASURED = "holds", "partly", "fails", "unmeasured"
MONOLITH, MICROSERVICES = "monolith", "microservices"
MIB = 2**20

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed advantage (`praise`) or drawback of one design, in both languages, and the function that judges it."""

    name: str
    about: str
    praise: bool
    title: tuple[str, str]
    text: tuple[str, str]
    judge: Callable[[Document, Document, Locale], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
    """The verdict on a claim, one of HOLDS, PARTLY, FAILS, UNMEASURED, and the figures as text."""

    claim: Claim
    verdict: str
    measured: str

    @property
    def favours(self) -> str | None:
        """The design that the verdict favours; None if it favours neither."""
        if self.verdict not in (HOLDS, FAILS):
            return None
        favourable = self.claim.praise == (self.verdict == HOLDS)
        other = MICROSERVICES if self.claim.about == MONOLITH else MONOLITH
        return self.claim.about if favourable else other


def judge_all(compared: Document, operation: Document, locale: Locale) -> list[ClaimVerdict]:
    """Every claim's verdict, in the order of the claims; a claim whose figures are missing is UNMEASURED."""
    found = []
    for claim in CLAIMS:
        try:
            verdict, measured = claim.judge(compared, operation, locale)
        except KeyError as missing:
            verdict, measured = UNMEASURED, locale.text(f"falta {missing}", f"{missing} is missing")
        found.append(ClaimVerdict(claim, verdict, measured))
    return found


def below(one: Document, other: Document) -> bool:
    """Whether the first interval is entirely below the second."""
    return float(one["high"]) < float(other["low"])


def _decided(lower: Document, higher: Document) -> str:
    """HOLDS if `lower` is below `higher` by their intervals, FAILS if above, PARTLY if they overlap."""
    return HOLDS if below(lower, higher) else FAILS if below(higher, lower) else PARTLY


def _span(figure: Document, locale: Locale, scale: float, digits: int, unit: str) -> str:
    """A figure with its interval, or alone if it was measured once."""
    value = locale.numbers.number(figure["value"] * scale, digits)
    if figure["samples"] < 2:
        return f"{value} {unit}"
    low, high = (locale.numbers.number(figure[end] * scale, digits) for end in ("low", "high"))
    return f"{value} {unit} ({low}–{high})"


def _simplicity(_: Document, operation: Document, locale: Locale) -> tuple[str, str]:
    mono, micro, only = operation[MONOLITH], operation[MICROSERVICES], operation["only_microservices"]
    lines = locale.numbers.number(only["lines"])
    fewer = mono["processes"] < micro["processes"] and mono["ports"] < micro["ports"]
    return HOLDS if fewer else FAILS, locale.text(
        f"{mono['processes']} processos contra {micro['processes']}; os microsserviços têm {lines} linhas de Python só "
        "suas. Ambos sobem com um comando (`serve`), do mesmo código",
        f"{mono['processes']} processes against {micro['processes']}; the microservices have {lines} lines of Python "
        "of their own. Both start by one command (`serve`), from the same code",
    )


def _latency(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    mono, micro = (compared["added"][name]["added_s"]["p50"] for name in (MONOLITH, MICROSERVICES))
    ratio = locale.numbers.number(mono["value"] / micro["value"], 2)
    first, second = (_span(figure, locale, 1e3, 2, "ms") for figure in (mono, micro))
    return _decided(mono, micro), locale.text(
        f"tudo que não é modelo, p50: {first} contra {second}, {ratio} vezes o dos microsserviços",
        f"everything but the models, p50: {first} against {second}, {ratio} times the microservices'",
    )


def _boot(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    mono, micro = (compared["boot"][name] for name in (MONOLITH, MICROSERVICES))
    first, second = (_span(figure, locale, 1, 1, "s") for figure in (mono, micro))
    return _decided(mono, micro), locale.text(
        f"até `/ping` 200: {first} contra {second}, {_starts(mono, locale)}",
        f"until `/ping` says 200: {first} against {second}, {_starts(mono, locale)}",
    )


def _starts(figure: Document, locale: Locale) -> str:
    count = figure["samples"]
    if count == 1:
        return locale.text("uma partida de cada", "one start of each")
    return locale.text(f"{count} partidas de cada", f"{count} starts of each")


def _out(figure: Document, locale: Locale) -> str:
    """Requests lost in a mode during a fault."""
    if not figure["lost"]:
        return locale.text(f"nenhum de {figure['asked']} pedidos perdido", f"none of {figure['asked']} requests lost")
    seconds = locale.numbers.number(figure["out_s"], 1)
    return locale.text(
        f"{figure['lost']} de {figure['asked']} pedidos perdidos, {seconds} s sem resposta",
        f"{figure['lost']} of {figure['asked']} requests lost, {seconds} s without an answer",
    )


def _cascade(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    faults = compared["faults"][MONOLITH]
    killed, refused = faults["llm_killed"]["modes"]["retrieve"], faults["memory_refused"]["modes"]["retrieve"]
    verdict = FAILS if not killed["lost"] else PARTLY if not refused["lost"] else HOLDS
    return verdict, locale.text(
        f"a busca do monólito quando o sistema mata o processo: {_out(killed, locale)}; quando só a alocação é "
        f"recusada: {_out(refused, locale)}",
        f"the monolith's retrieval when the system kills the process: {_out(killed, locale)}; when only an allocation "
        f"is refused: {_out(refused, locale)}",
    )


def _embedders(cost: Document) -> list[tuple[str, Document]]:
    return [(key.removeprefix("monolith with "), cost[key]) for key in cost if key.startswith("monolith with ")]


def _gain(cost: Document, monolith: Document) -> float:
    return float(cost["split"]["requests_per_s"] / monolith["requests_per_s"] - 1)


def _waste(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    cost, n = compared["cost"], locale.numbers
    share = n.percent(cost["cpu_instances_per_gpu_instance"], 2)
    sessions = "; ".join(
        f"{name}: {monolith['sessions']}/{cost['split']['sessions']} ({n.percent(_gain(cost, monolith), 1)})"
        for name, monolith in _embedders(cost)
    )
    where = f"{cost['model']}, {cost['gpu_instance']}"
    gains = [_gain(cost, monolith) for _, monolith in _embedders(cost)]
    return HOLDS if min(gains) > 0.1 else PARTLY if max(gains) > 0 else FAILS, locale.text(
        f"a busca pede {share} de uma {cost['cpu_instance']} por GPU. Sessões por placa com e sem o embedder nela "
        f"({where}, e quanto a mais se atende sem ele): {sessions}",
        f"retrieval asks for {share} of a {cost['cpu_instance']} per GPU. Sessions a card with and without the "
        f"embedder on it ({where}, and how much more is served without it): {sessions}",
    )


def _coupling(_: Document, operation: Document, locale: Locale) -> tuple[str, str]:
    mono, micro = operation[MONOLITH]["damaged_llm"], operation[MICROSERVICES]["damaged_llm"]
    coupled = mono["retrieves_after_s"] is None
    verdict = HOLDS if coupled and micro["retrieves_after_s"] is not None else PARTLY if coupled else FAILS
    first, second = _found(mono, locale), _found(micro, locale)
    return verdict, locale.text(
        f"com os pesos do LLM danificados, a busca: monólito {first}; microsserviços {second}",
        f"with the LLM's weights damaged, retrieval: monolith {first}; microservices {second}",
    )


def _found(damaged: Document, locale: Locale) -> str:
    if damaged["retrieves_after_s"] is None:
        return locale.text(f"nunca responde (`{damaged['code']}`)", f"never answers (`{damaged['code']}`)")
    seconds = locale.numbers.number(damaged["retrieves_after_s"], 1)
    return locale.text(
        f"responde {seconds} s após a partida (`/ping` {damaged['ping']})",
        f"answers {seconds} s after the start (`/ping` {damaged['ping']})",
    )


def _hardware(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    cost, n = compared["cost"], locale.numbers
    split = n.number(cost["split"]["gpu_usd_per_1000"], 3)
    prices = "; ".join(
        locale.text(
            f"{name}: US$ {n.number(monolith['usd_per_1000'], 3)}, compensa com CPU abaixo de US$ "
            f"{n.number(monolith['break_even_cpu_usd_per_hour']['one_gpu'], 2)}/h (uma GPU) ou US$ "
            f"{n.number(monolith['break_even_cpu_usd_per_hour']['at_scale'], 2)}/h (muitas)",
            f"{name}: US$ {n.number(monolith['usd_per_1000'], 3)}, pays with a CPU below US$ "
            f"{n.number(monolith['break_even_cpu_usd_per_hour']['one_gpu'], 2)}/h (one GPU) or US$ "
            f"{n.number(monolith['break_even_cpu_usd_per_hour']['at_scale'], 2)}/h (many)",
        )
        for name, monolith in _embedders(cost)
    )
    return PARTLY, locale.text(
        f"1.000 pedidos, por preço e pelo modelo de capacidade, não medidos em GPU: a parte em GPU US$ {split}; "
        f"monólito com {prices}",
        f"1,000 requests, by price and the capacity model, not measured on a GPU: the GPU part US$ {split}; "
        f"monolith with {prices}",
    )


def _isolation(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    faults = compared["faults"]
    killed = {name: faults[name]["llm_killed"]["modes"]["retrieve"] for name in (MONOLITH, MICROSERVICES)}
    other = faults[MICROSERVICES]["vector_killed"]["modes"]["generate"]
    isolated = not killed[MICROSERVICES]["lost"] and not other["lost"]
    verdict = HOLDS if isolated and killed[MONOLITH]["lost"] else PARTLY if isolated else FAILS
    return verdict, locale.text(
        f"LLM morto, a busca: {_out(killed[MICROSERVICES], locale)} (monólito: {_out(killed[MONOLITH], locale)}); "
        f"busca morta, a geração: {_out(other, locale)}",
        f"LLM killed, retrieval: {_out(killed[MICROSERVICES], locale)} (monolith: {_out(killed[MONOLITH], locale)}); "
        f"retrieval killed, generation: {_out(other, locale)}",
    )


def _scaling(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    scaling = compared["scaling"]
    gain = scaling["gain"]
    more = (scaling["2"]["memory"]["pss_bytes"] - scaling["1"]["memory"]["pss_bytes"]) / MIB
    verdict = HOLDS if gain["low"] > 1 else FAILS if gain["high"] < 1 else PARTLY
    return verdict, locale.text(
        f"dois serviços de LLM de um thread contra um, 16 clientes: {_span(gain, locale, 1, 2, 'vezes')} a vazão, por "
        f"{locale.numbers.number(more)} MiB a mais e o mesmo índice",
        f"two LLM services of one thread against one, 16 clients: {_span(gain, locale, 1, 2, 'times')} the throughput, "
        f"for {locale.numbers.number(more)} MiB more and the same index",
    )


def _complexity(_: Document, operation: Document, locale: Locale) -> tuple[str, str]:
    mono, micro, only = operation[MONOLITH], operation[MICROSERVICES], operation["only_microservices"]
    return HOLDS if micro["ports"] > mono["ports"] else FAILS, locale.text(
        f"{micro['ports']} portas contra {mono['ports']}, {micro['processes']} processos contra {mono['processes']}, "
        f"{only['settings']} configurações a mais, um supervisor",
        f"{micro['ports']} ports against {mono['ports']}, {micro['processes']} processes against {mono['processes']}, "
        f"{only['settings']} settings more, a supervisor",
    )


def _overhead(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    added, calls = compared["added"], compared["hops"]
    mono, micro = (added[name]["added_s"]["p50"] for name in (MONOLITH, MICROSERVICES))
    more = locale.numbers.number(1e3 * (micro["value"] - mono["value"]), 1)
    by_endpoint = ", ".join(
        f"{endpoint} {locale.numbers.number(1e3 * calls[endpoint]['added_s'], 1)} ms"
        for endpoint in ("vector/retrieve", "llm/generate")
        if endpoint in calls
    )
    return _decided(mono, micro), locale.text(
        f"{more} ms a mais por pedido (p50). Por troca, além dos modelos, um pedido por vez: {by_endpoint}",
        f"{more} ms more a request (p50). An exchange, beyond the models, one request at a time: {by_endpoint}",
    )


def _memory(compared: Document, _: Document, locale: Locale) -> tuple[str, str]:
    memory, n = compared["memory"], locale.numbers
    mono, micro = (memory[name]["pss_bytes"] / MIB for name in (MONOLITH, MICROSERVICES))
    return HOLDS if micro > mono else FAILS, locale.text(
        f"PSS depois da carga: {n.number(micro)} MiB contra {n.number(mono)} MiB, {n.number(micro / mono, 2)} vezes",
        f"PSS after the load: {n.number(micro)} MiB against {n.number(mono)} MiB, {n.number(micro / mono, 2)} times",
    )


CLAIMS: Sequence[Claim] = (
    Claim(
        "simplicity", MONOLITH, True, ("Simplicidade", "Simplicity"),
        ("Mais fácil de desenvolver e testar: um só ponto de partida", "Easier to develop and test: one way to start"),
        _simplicity,
    ),
    Claim(
        "internal_latency", MONOLITH, True, ("Latência interna", "Internal latency"),
        ("Sem chamadas HTTP entre busca e geração", "No HTTP calls between retrieval and generation"), _latency,
    ),
    Claim(
        "boot", MONOLITH, True, ("Boot", "Boot"),
        ("Sobe mais rápido: um só servidor", "Starts sooner: only one server"), _boot,
    ),
    Claim(
        "cascade_crash", MONOLITH, False, ("Queda em cascata", "Cascade crash"),
        ("Se o LLM fica sem memória, tudo cai", "If the LLM runs out of memory, everything falls"), _cascade,
    ),
    Claim(
        "hardware_waste", MONOLITH, False, ("Desperdício de hardware", "Hardware waste"),
        ("Tudo roda na GPU cara, até o que só pede CPU", "All runs on the expensive GPU, even what needs a CPU"),
        _waste,
    ),
    Claim(
        "coupling", MONOLITH, False, ("Acoplamento", "Coupling"),
        ("Um erro do LLM impede a busca", "An error of the LLM prevents retrieval"), _coupling,
    ),
    Claim(
        "heterogeneous_hardware", MICROSERVICES, True, ("Hardware heterogêneo", "Heterogeneous hardware"),
        ("LLM em GPU, o resto em CPU, por menos", "LLM on a GPU, the rest on CPUs, for less"), _hardware,
    ),
    Claim(
        "isolation", MICROSERVICES, True, ("Isolamento de falhas", "Fault isolation"),
        ("A busca serve enquanto o LLM está fora", "Retrieval serves while the LLM is away"), _isolation,
    ),
    Claim(
        "independent_scaling", MICROSERVICES, True, ("Escala independente", "Independent scaling"),
        ("Escala-se só o LLM, sem duplicar a base", "The LLM alone is scaled, the index is not doubled"), _scaling,
    ),
    Claim(
        "operational_complexity", MICROSERVICES, False, ("Complexidade operacional", "Operational complexity"),
        ("Várias portas, partida e saúde a orquestrar", "Several ports, starts and health to orchestrate"), _complexity,
    ),
    Claim(
        "network_overhead", MICROSERVICES, False, ("Custo de rede", "Network overhead"),
        ("Cada troca soma alguns milissegundos", "Each exchange adds some milliseconds"), _overhead,
    ),
    Claim(
        "base_ram", MICROSERVICES, False, ("RAM de base", "Base RAM"),
        ("Três servidores ativos pedem mais memória", "Three servers at once take more memory"), _memory,
    ),
)  # fmt: skip
