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
# # 1. Dimensionamento · Sizing
#
# Quantas sessões cabem, em quantos nós, e o que fazer quando não cabem. Tudo vem do pacote `capacity`, o mesmo que o
# contêiner usa ao iniciar; nada é baixado. Troque os valores abaixo e execute de novo.
#
# *How many sessions fit, on how many nodes, and what to do when they do not. Everything comes from the package
# `capacity`, which the container also uses when it starts; nothing is downloaded. Change the values below and run again.*

# %%
import os
import sys
from pathlib import Path

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "sizing.py").is_file())
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

LANGUAGE = os.environ.get("NOTEBOOK_LANGUAGE", "pt-BR")  # "pt-BR" | "en"

MODEL, HARDWARE = "gpt-oss-120b", "dgx300"
CONTEXT, CONCURRENCY = 131_072, 1_000
INPUT_TOKENS, OUTPUT_TOKENS = 8_000, 500
KV_DTYPE = "fp8"

# %%
from IPython.display import Markdown, display
from matplotlib import pyplot

from benchmarks.harness.wording import locale_for
from capacity import EngineSpec, Request, Workload, apply_fix, check, load_hardware, load_model, make_plan, refuse
from capacity.report import markdown, page
from capacity.report.figures import figures as report_figures
from capacity.report.sections import compose
from capacity.report.writer import Writer
from notebooks import plots

plots.use_style()
locale = locale_for(LANGUAGE)
text, numbers = locale.text, locale.numbers
GIB = 2**30

# %% [markdown]
# ## O plano · The plan
#
# O menor número de instâncias que atende à carga. Implantação, inicialização, motor e admissão usam este mesmo objeto.
#
# *The fewest instances that can serve the load. Deployment, boot, engine and admission all use this object.*

# %%
request = Request(
    load_model(MODEL),
    load_hardware(HARDWARE),
    Workload(CONTEXT, CONCURRENCY, input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS),
    EngineSpec(kv_dtype=KV_DTYPE),
)
plan = make_plan(request).plan
plots.table(
    [text("grandeza", "quantity"), text("valor", "value")],
    [
        [text("instâncias", "instances"), f"{plan.instances} × {plan.hardware}"],
        [text("paralelismo de tensores", "tensor parallelism"), str(plan.tensor_parallel)],
        [text("réplicas por instância", "replicas an instance"), str(plan.replicas_per_instance)],
        [text("sessões por instância", "sessions an instance"), numbers.number(plan.sessions_per_instance)],
        [text("KV por sessão", "KV a session"), numbers.gib(plan.kv_bytes_per_session / GIB, 2)],
        [text("blocos de KV por posto", "KV blocks a rank"), numbers.number(plan.num_blocks)],
    ],
)

# %% [markdown]
# ## A conta da memória · The memory bill
#
# Um posto (uma GPU), termo a termo. Pesos e KV são exatos; as estimativas estão indicadas.
#
# *One rank (one GPU), term by term. Weights and KV are exact; estimates are marked.*

# %%
report = report_figures(request)
writer = Writer(report, LANGUAGE)
parts = {
    f"{writer.text['term_' + term['name']]} ({writer.text['label_' + term['label']]})": term["gib"]
    for term in report["terms"]
    if term["gib"] > 0
}
_, axes = pyplot.subplots(figsize=(8, 2.6))
plots.stack(axes, parts, lambda value: numbers.number(value, 1))
axes.set(
    title=text(f"Memória de uma GPU de {HARDWARE}, GiB", f"Memory of one {HARDWARE} GPU, GiB"),
    xlabel="GiB",
)
axes.xaxis.set_major_formatter(plots.axis(locale, 0))
pyplot.show()

# %% [markdown]
# ## E se? Sessões sobre o contexto · What if? Sessions over context
#
# O plano escolhe o paralelismo de tensores de novo em cada ponto, para precisar do menor número de nós.
#
# *At each point the plan chooses the tensor parallelism that needs the fewest nodes.*

# %%
contexts = [2**power for power in range(11, 18)]
curves = {
    f"KV {dtype}": [
        make_plan(
            request.with_changes(context_tokens=context, kv_dtype=dtype, input_tokens=None, output_tokens=None)
        ).plan.sessions_per_instance
        for context in contexts
    ]
    for dtype in ("bf16", "fp8", "int4")
}
_, axes = pyplot.subplots()
plots.lines(axes, contexts, curves)
axes.set(
    xscale="log", yscale="log", xticks=contexts,
    title=text(f"{MODEL}: sessões que cabem em um {HARDWARE}", f"{MODEL}: sessions that fit one {HARDWARE}"),
    xlabel=text("contexto, tokens (escala logarítmica)", "context, tokens (logarithmic scale)"),
    ylabel=text("sessões por nó", "sessions a node"),
)  # fmt: skip
axes.minorticks_off()
axes.xaxis.set_major_formatter(plots.axis(locale, 0))
axes.yaxis.set_major_formatter(plots.axis(locale, 0))
pyplot.show()

# %% [markdown]
# ## E se fosse outra máquina? · What if it were another machine?
#
# Uma carga menor, em instâncias do SageMaker: quantas são necessárias.
#
# *A smaller workload on SageMaker instances: how many are needed.*

# %%
machines = ["ml.g6e.12xlarge", "ml.g6e.48xlarge", "ml.p4d.24xlarge", "ml.p5.48xlarge"]
smaller = {"context_tokens": 32_768, "concurrency": 200}
needed: dict[str, list[float | None]] = {f"KV {dtype}": [] for dtype in ("bf16", "fp8")}
for dtype in ("bf16", "fp8"):
    for machine in machines:
        verdict = make_plan(request.with_changes(**smaller, kv_dtype=dtype, hardware=load_hardware(machine)))
        needed[f"KV {dtype}"].append(verdict.plan.instances if verdict.fits else None)
_, axes = pyplot.subplots()
plots.bars(axes, machines, needed, numbers.number)
axes.set(
    title=text(f"{MODEL}, 200 sessões de 32.768 tokens", f"{MODEL}, 200 sessions of 32,768 tokens"),
    ylabel=text("instâncias", "instances"),
)
pyplot.show()

# %% [markdown]
# ## Três cenários · Three scenarios
#
# Mínimo, recomendado (N+1) e ideal (N+2). A folga incide sobre a demanda, nunca sobre nós já arredondados.
#
# *Minimum, recommended (N+1) and ideal (N+2). Headroom is on the demand, never on nodes already rounded.*

# %%
names = {"minimum": text("mínimo", "minimum"), "recommended": text("recomendado", "recommended"), "ideal": "ideal"}
scenarios = report["scenarios"]
plots.table(
    [text("cenário", "scenario"), text("folga", "headroom"), text("orçamento por nó", "budget a node"),
     text("sessões por nó", "sessions a node"), text("nós", "nodes"), text("sessões se um nó cair", "sessions after one failure")],
    [
        [name, numbers.percent(scenarios[key]["headroom"]), numbers.gib(scenarios[key]["budget_per_node_gib"]),
         numbers.number(scenarios[key]["sessions_per_node"]), str(scenarios[key]["nodes"]),
         numbers.number(scenarios[key]["sessions_after_one_failure"])]
        for key, name in names.items()
    ],
)  # fmt: skip
_, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2))
plots.bars(
    left, list(names.values()), {text("nós", "nodes"): [scenarios[key]["nodes"] for key in names]}, numbers.number
)
left.set_title(text("Nós", "Nodes"))
held = [scenarios[key]["nodes"] * scenarios[key]["sessions_per_node"] for key in names]
plots.bars(right, list(names.values()), {text("sessões", "sessions"): held}, numbers.number)
right.axhline(CONCURRENCY, color=plots.PALETTE[5], linestyle="--")
asked = numbers.number(CONCURRENCY)
right.set_title(text(f"Sessões (tracejado: {asked} pedidas)", f"Sessions (dashed: {asked} asked)"))
pyplot.show()

# %% [markdown]
# ## O relatório · The report
#
# O mesmo de `sizing.py report`; a versão em HTML, que pode ser impressa em PDF, fica em `build/notebooks/`.
#
# *The same as `sizing.py report`; the HTML version, which can be printed to PDF, is written to `build/notebooks/`.*

# %%
document = compose(report, LANGUAGE)
written = Path("build/notebooks") / f"report-{LANGUAGE}.html"
written.parent.mkdir(parents=True, exist_ok=True)
written.write_text(page.render(document, writer), encoding="utf-8")
display(Markdown(markdown.render(document)))

# %% [markdown]
# ## Uma recusa e suas correções · A refusal and its fixes
#
# O que não cabe é recusado com números e correções. Aqui cada correção é aplicada e verificada de novo por `check`.
#
# *What does not fit is refused with figures and fixes. Here each fix is applied and verified by `check`.*

# %%
too_much = Request(load_model("Qwen3-32B"), load_hardware("ml.g6e.12xlarge"), Workload(32_768, 24))
verdict = check(too_much)
refusal = refuse(too_much, verdict)
print(refusal.message)
checked = [check(apply_fix(too_much, fix)) for fix in refusal.fixes]
plots.table(
    [text("correção", "fix"), text("efeito", "effect"), text("verificada", "checked"), text("sobra", "left over")],
    [
        [f"`{fix.flags}`", fix.effect, text("cabe", "fits") if again.fits else text("NÃO CABE", "DOES NOT FIT"),
         numbers.gib((again.plan.have_bytes - again.plan.need_total_bytes) / GIB)]
        for fix, again in zip(refusal.fixes, checked, strict=True)
    ],
)  # fmt: skip
assert not verdict.fits
assert all(again.fits for again in checked)

# %%
labels = [
    text("como pedido", "as asked"),
    *(fix.flags.replace("--", "").replace(" weights", "\nweights") for fix in refusal.fixes),
]
plans = [verdict.plan, *(again.plan for again in checked)]
_, axes = pyplot.subplots(figsize=(8, 4.2))
rows = range(len(plans))
axes.barh(
    rows, [made.need_total_bytes / GIB for made in plans], 0.62, color=plots.PALETTE[0], label=text("precisa", "needs")
)
axes.scatter([made.have_bytes / GIB for made in plans], rows, marker="|", s=520, linewidths=3, color=plots.PALETTE[5],
             zorder=3, label=text("tem", "has"))  # fmt: skip
axes.set_yticks(rows, labels)
axes.invert_yaxis()
axes.set(
    title=text("Memória de um posto: o que precisa e o que tem", "Memory of one rank: what it needs and what it has"),
    xlabel="GiB",
)
axes.xaxis.set_major_formatter(plots.axis(locale, 0))
axes.legend(loc="lower right", markerscale=0.4)
pyplot.show()
