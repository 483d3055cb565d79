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
# # 2. Chamar o endpoint · Calling the endpoint
#
# Com `ENDPOINT_NAME` vazio, o contêiner sobe nesta máquina, atrás de um SageMaker Runtime local, sem rede nem
# credenciais. Com um nome, as mesmas células chamam o endpoint real (região e credenciais como em qualquer uso do boto3).
#
# *With `ENDPOINT_NAME` empty, the container starts on this machine behind a local SageMaker Runtime, without network or
# credentials. With a name, the same cells call the real endpoint (region and credentials as in any use of boto3).*

# %%
import os
import sys
from pathlib import Path

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "sizing.py").is_file())
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

LANGUAGE = os.environ.get("NOTEBOOK_LANGUAGE", "pt-BR")  # "pt-BR" | "en"
ENDPOINT_NAME = os.environ.get("ENDPOINT_NAME", "")  # "" → local

# %%
import atexit
import importlib.util
import json
import subprocess
import time
from contextlib import ExitStack

import boto3
from matplotlib import pyplot

from benchmarks.harness.process import served
from benchmarks.harness.wording import locale_for
from deploy.local.runtime import LocalRuntime
from notebooks import plots
from rag_client.client import CONFIG, Client
from rag_client.failures import CallFailed, SessionClosed

plots.use_style()
locale = locale_for(LANGUAGE)
text, numbers = locale.text, locale.numbers

running = ExitStack()
atexit.register(running.close)  # stop the servers even if a cell fails
where: dict[str, str] = {}
if not ENDPOINT_NAME:
    log = Path("build/notebooks/serve.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    container = running.enter_context(served({"CONCURRENCY": "4", "LOG_LEVEL": "WARNING"}, log=log))
    stand_in = running.enter_context(LocalRuntime())
    state = stand_in.serve("rag", container.url).wait(30)
    print(text("contêiner local:", "local container:"), state)
    where = {"region_name": "us-east-1", "endpoint_url": stand_in.url}
    where |= {"aws_access_key_id": "local", "aws_secret_access_key": "local"}  # any value: they are not checked
endpoint = ENDPOINT_NAME or "rag"

# %% [markdown]
# ## boto3, sem mais nada · boto3 and nothing else

# %%
runtime = boto3.client("sagemaker-runtime", config=CONFIG, **where)
response = runtime.invoke_endpoint(
    EndpointName=endpoint, ContentType="application/json", Body=json.dumps({"query": "Qual a capital do Brasil?"})
)
answer = json.load(response["Body"])
print(answer["text"])
plots.table(
    [text("fonte", "source"), text("título", "title"), text("nota", "score"), text("citada", "cited")],
    [
        [
            source["id"],
            source["title"],
            numbers.number(source["score"], 2),
            text("sim", "yes") if source["cited"] else "–",
        ]
        for source in answer["sources"]
    ],
)

# %% [markdown]
# Para onde foi o tempo de uma resposta · *Where the time of an answer went*

# %%
stages = {"retrieve_s": text("busca", "retrieval"), "prompt_s": "prompt", "generate_s": text("geração", "generation")}
spent = {words: 1e3 * answer["timings"][stage] for stage, words in stages.items()}
_, axes = pyplot.subplots(figsize=(8, 2.2))
plots.stack(axes, spent, lambda value: numbers.number(value, 1))
axes.set(title=text("Milissegundos por etapa", "Milliseconds by stage"), xlabel="ms")
axes.xaxis.set_major_formatter(plots.axis(locale))
pyplot.show()

# %% [markdown]
# ## O cliente do projeto · The project's client
#
# boto3 com tempos-limite adequados, novas tentativas só para erros que o servidor marca como repetíveis, e erros com tipo.
#
# *boto3 with suitable time-outs, retries only of errors that the server marks as retryable, and typed errors.*

# %%
client = Client(endpoint, runtime=runtime)
for question in ("Como se chama o narrador de Grande Sertão: Veredas?", "What is the capital of Brazil?"):
    print(question, "→", client.ask(question)["text"])

# %% [markdown]
# ## Stream

# %%
began = time.perf_counter()
for event in client.stream("Qual a capital do Brasil?"):
    passed_ms = 1e3 * (time.perf_counter() - began)
    print(f"{passed_ms:7.0f} ms  {event['type']:8}", event.get("text", ""))

# %% [markdown]
# ## Sessão · Session
#
# O contêiner guarda a conversa e sua memória de KV; ao sair do `with`, libera ambas.
#
# *The container keeps the conversation and its KV memory; leaving the `with` releases both.*

# %%
with client.session() as session:
    for question in ("Qual a capital do Brasil?", "E como se chama o narrador de Grande Sertão: Veredas?"):
        turn = session.ask(question)
        print(question, "→", turn["text"], f"({turn['usage']['prompt_tokens']} tokens)")
    print(text("sessão aberta até", "session open until"), session.expires)
    session_id = session.id

try:
    client.invoke({"query": "E agora?"}, SessionId=session_id)
except SessionClosed as closed:
    print(f"SessionClosed: {closed}")

# %% [markdown]
# ## Erros · Errors
#
# Uma recusa informa o campo, o valor, o limite e a correção. Se algo não cabe no plano, ela sugere mudanças verificadas.
#
# *A refusal names the field, the value, the limit and the remedy. If something does not fit the plan, it suggests verified changes.*

# %%
for wrong in (
    {"query": "Qual a capital do Brasil?", "top_q": 3},
    {"query": "Qual a capital do Brasil?", "temperature": -1},
    {"query": "Brasil " * 4_000, "mode": "generate"},
):
    try:
        client.invoke(wrong)
    except CallFailed as failed:
        print(f"{type(failed).__name__} (HTTP {failed.status}, {failed.code}): {failed.message}")
        for label, value in (("field", failed.field), ("limit", failed.limit), ("remedy", failed.remedy)):
            if value is not None:
                print(f"    {label}: {value}")
        for fix in failed.fixes:
            settings = " ".join(f"{name}={value}" for name, value in fix["deploy"].items())
            print(f"    fix: {settings}  ({fix['effect']})")

# %% [markdown]
# ## sagemaker-core
#
# O SDK do SageMaker requer uma versão mais antiga de `rich` e por isso um ambiente separado (criado por `make sagemaker-core`).
#
# *The SageMaker SDK requires an older `rich` and therefore a separate environment (created by `make sagemaker-core`).*

# %%
sdk_python = Path(".venv-sagemaker-core/bin/python")
if importlib.util.find_spec("sagemaker") is not None:
    sdk_python = Path(sys.executable)
if sdk_python.exists():
    command = [str(sdk_python), "examples/sagemaker_core.py", "--endpoint-name", endpoint]
    command += ["--runtime-url", where["endpoint_url"]] if where else []
    print(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
else:
    print(text("PULADO: sagemaker-core não está instalado", "SKIPPED: sagemaker-core is not installed"))

# %%
running.close()
print(text("encerrado", "stopped"))
