# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Monólito ou microsserviços · Monolith or microservices
#
# Doze afirmações comuns sobre as duas arquiteturas, cada uma com sua medição e seu veredito. As medições vêm de
# `notebooks/results`; com `MEASURE=1` são refeitas nesta máquina, em versão curta (cerca de dez minutos).
#
# *Twelve common claims on the two designs, each with its measurement and its verdict. The measurements come from
# `notebooks/results`; with `MEASURE=1` they are repeated on this machine, in a short version (about ten minutes).*

# %%
import os
import sys
from pathlib import Path

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "sizing.py").is_file())
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

LANGUAGE = os.environ.get("NOTEBOOK_LANGUAGE", "pt-BR")  # "pt-BR" | "en"
MEASURE = os.environ.get("MEASURE") == "1"

# %%
import subprocess

from IPython.display import Markdown, display
from matplotlib import pyplot

from benchmarks.harness.design_claims import MICROSERVICES, MONOLITH, judge_all
from benchmarks.harness.wording import locale_for
from benchmarks.verdicts import conditions, read, verdict_words
from notebooks import plots
from notebooks.panels import draw

plots.use_style()
locale = locale_for(LANGUAGE)
text, numbers = locale.text, locale.numbers

measured: list[Path] = []
if MEASURE:
    for benchmark, options in (("compare", ["--quick"]), ("operation", [])):
        measured.append(Path(f"build/notebooks/{benchmark}.json"))
        command = [sys.executable, "-m", f"benchmarks.{benchmark}", *options, "--output", str(measured[-1])]
        subprocess.run(command, check=True, capture_output=True)
compared, operation = read(*measured)
display(Markdown(conditions(compared, locale)))

# %% [markdown]
# ## Os vereditos · The verdicts

# %%
verdicts = judge_all(compared, operation, locale)
plots.table(
    [text("afirmação", "claim"), text("medido", "measured"), text("veredito", "verdict")],
    [
        [
            f"**{text(*verdict.claim.title)}.** {text(*verdict.claim.text)}",
            verdict.measured,
            f"**{verdict_words(verdict.verdict, locale)}**",
        ]
        for verdict in verdicts
    ],
)


# %%
def charts(about: str, *, praise: bool, title: str) -> None:
    """The charts of the claimed advantages, or drawbacks, of one design."""
    mine = [verdict for verdict in verdicts if (verdict.claim.about, verdict.claim.praise) == (about, praise)]
    figure, row = pyplot.subplots(1, len(mine), figsize=(9, 3.4))
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    for axes, verdict in zip(row, mine, strict=True):
        draw(axes, verdict, compared, operation, locale)
    pyplot.show()


# %% [markdown]
# ## Monólito: vantagens · Monolith: advantages

# %%
charts(MONOLITH, praise=True, title=text("O que se diz a favor do monólito", "What is said for the monolith"))

# %% [markdown]
# ## Monólito: desvantagens · Monolith: drawbacks

# %%
charts(MONOLITH, praise=False, title=text("O que se diz contra o monólito", "What is said against the monolith"))

# %% [markdown]
# ## Microsserviços: vantagens · Microservices: advantages

# %%
charts(
    MICROSERVICES, praise=True, title=text("O que se diz a favor dos microsserviços", "What is said for microservices")
)

# %% [markdown]
# ## Microsserviços: desvantagens · Microservices: drawbacks

# %%
charts(
    MICROSERVICES,
    praise=False,
    title=text("O que se diz contra os microsserviços", "What is said against microservices"),
)

# %% [markdown]
# ## Sob carga · Under load
#
# Tempo até o primeiro token e vazão, de um a 32 clientes; `edge` é o monólito com pesos int8, para um notebook sem rede.
#
# *Time to the first token and throughput, from one to 32 clients; `edge` is the monolith with int8 weights, for a laptop offline.*

# %%
clients = [int(count) for count in compared["closed"]]
designs = [name for name in ("monolith", "microservices", "edge") if name in compared["added"]]
_, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
for axes, title, of in (
    (left, text("Primeiro token, p50 (s)", "First token, p50 (s)"), lambda found: found["ttft_s"]["p50"]["value"]),
    (right, text("Pedidos por segundo", "Requests a second"), lambda found: found["requests_per_s"]["value"]),
):
    plots.lines(
        axes, clients, {name: [of(compared["closed"][str(count)][name]) for count in clients] for name in designs}
    )
    axes.set(xscale="log", xticks=clients, title=title, xlabel=text("clientes", "clients"), ylim=(0, None))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(plots.axis(locale, 0))
    axes.yaxis.set_major_formatter(plots.axis(locale))
pyplot.show()

# %% [markdown]
# ## Onde ganham os microsserviços · Where microservices win

# %%
for design, words in (
    (MICROSERVICES, text("Microsserviços", "Microservices")),
    (MONOLITH, text("Monólito", "Monolith")),
):
    won = [text(*verdict.claim.title) for verdict in verdicts if verdict.favours == design]
    display(
        Markdown(f"**{words}**: {'; '.join(won) if won else text('em nada do que foi medido', 'in nothing measured')}.")
    )
