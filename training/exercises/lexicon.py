"""Random names, quantities and short phrases, in Portuguese and English.

All randomness comes from the `random.Random` that is passed in, so results are reproducible by seed.
`training.exercises.relation_rows` says which kind of phrase each relation needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from rag.interfaces import Language

Gender = Literal["m", "f", "n"]
"""Grammatical gender in Portuguese; "n": a name without an article."""


def words(text: str) -> tuple[str, ...]:
    """The words of `text`, for tables that are easier to read without commas."""
    return tuple(text.split())


_ONSETS = words("b c d f g h j k l m n p r s t v z br cr dr fr gr pr tr bl cl fl gl pl ch")
_VOWELS = words("a a a e e e i i o o o u")
_CODAS = words("r l s n m")
_PT_ACCENTED = words("á é í ó ú â ê ô ã")
_ENDINGS: dict[Language, tuple[str, ...]] = {
    "pt": ("ília", "ão", "é", "ândia", "ópolis", "inha", "eira", "osa", "ções", "á", "ense", "al", "or", "ulo", "ípio"),
    "en": ("ton", "ford", "ley", "burg", "shire", "wick", "dale", "mond", "ia", "land", "son", "ers", "us", "en", "ow"),
}
_FIRST_NAMES: dict[Language, tuple[str, ...]] = {
    "pt": words(
        "Ana João Maria José Cecília Antônio Luís Inês Mário Célia Tomás Beatriz Fábio Lúcia Otávio Júlia "
        "Caetano Íris Sérgio Márcia Álvaro Débora Rômulo Estêvão Machado Clarice Érico Cândido"
    ),
    "en": words(
        "Alice John Mary Peter Grace Henry Ruth Oliver Emma George Alan Ada Louis Edith Walter Ralph Isaac "
        "Charlotte Dennis Florence Victor Agnes Hugh Martha Tim Linus Barbara Edgar"
    ),
}
_PLACES: dict[Language, tuple[tuple[str, Gender], ...]] = {
    "pt": (
        ("Brasil", "m"), ("Portugal", "n"), ("França", "f"), ("Japão", "m"), ("Argentina", "f"), ("Bahia", "f"),
        ("Angola", "n"), ("Canadá", "m"), ("Índia", "f"), ("Itália", "f"), ("Peru", "m"), ("Minas Gerais", "n"),
        ("Espanha", "f"), ("Chile", "m"), ("Egito", "m"), ("Alemanha", "f"), ("Moçambique", "n"), ("Uruguai", "m"),
    ),
    "en": (
        ("Brazil", "n"), ("Portugal", "n"), ("France", "n"), ("Japan", "n"), ("Argentina", "n"), ("Bahia", "n"),
        ("Angola", "n"), ("Canada", "n"), ("India", "n"), ("Italy", "n"), ("Peru", "n"), ("Spain", "n"), ("Egypt", "n"),
        ("Germany", "n"), ("Chile", "n"), ("Kenya", "n"), ("Norway", "n"), ("Australia", "n"),
    ),
}  # fmt: skip
_CITIES: dict[Language, tuple[str, ...]] = {
    "pt": words("Lisboa Paris Tóquio Salvador Recife Luanda Ottawa Roma Lima Madri Cairo Berlim Maputo Londres"),
    "en": words("Lisbon Paris Tokyo London Oslo Ottawa Rome Lima Madrid Cairo Berlin Nairobi Sydney Brasília"),
}
_MONTHS: dict[Language, tuple[str, ...]] = {
    "pt": words("janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro"),
    "en": words("January February March April May June July August September October November December"),
}
# Things, from which definitions, purposes and parts are composed: (Portuguese, gender, English).
_THINGS: tuple[tuple[str, Gender, str], ...] = (
    ("servidor", "m", "server"), ("método", "m", "method"), ("biblioteca", "f", "library"), ("rede", "f", "network"),
    ("protocolo", "m", "protocol"), ("modelo", "m", "model"), ("índice", "m", "index"), ("formato", "m", "format"),
    ("planta", "f", "plant"), ("animal", "m", "animal"), ("instrumento", "m", "instrument"),
    ("máquina", "f", "machine"),
    ("linguagem", "f", "language"), ("camada", "f", "layer"), ("memória", "f", "memory"), ("fila", "f", "queue"),
    ("algoritmo", "m", "algorithm"), ("cidade", "f", "city"), ("festa", "f", "festival"), ("prato", "m", "dish"),
    ("doença", "f", "disease"), ("metal", "m", "metal"), ("gás", "m", "gas"), ("técnica", "f", "technique"),
    ("processo", "m", "process"), ("serviço", "m", "service"), ("medida", "f", "measure"), ("vetor", "m", "vector"),
    ("função", "f", "function"), ("tabela", "f", "table"), ("órgão", "m", "organ"), ("ferramenta", "f", "tool"),
)  # fmt: skip
_ADJECTIVES: tuple[tuple[str, str, str], ...] = (
    ("pequeno", "pequena", "small"), ("aberto", "aberta", "open"), ("antigo", "antiga", "old"),
    ("rápido", "rápida", "fast"), ("único", "única", "single"), ("público", "pública", "public"),
    ("numérico", "numérica", "numeric"), ("compacto", "compacta", "compact"), ("novo", "nova", "new"),
    ("digital", "digital", "digital"), ("simples", "simples", "simple"), ("leve", "leve", "light"),
)  # fmt: skip
# (Portuguese third person, Portuguese infinitive, English third person, English base form)
_VERBS: tuple[tuple[str, str, str, str], ...] = (
    ("guarda", "guardar", "stores", "store"), ("mede", "medir", "measures", "measure"),
    ("transporta", "transportar", "carries", "carry"), ("protege", "proteger", "protects", "protect"),
    ("converte", "converter", "converts", "convert"), ("reduz", "reduzir", "reduces", "reduce"),
    ("ordena", "ordenar", "sorts", "sort"), ("busca", "buscar", "searches", "search"),
    ("compara", "comparar", "compares", "compare"), ("produz", "produzir", "produces", "produce"),
    ("divide", "dividir", "splits", "split"), ("controla", "controlar", "controls", "control"),
    ("lê", "ler", "reads", "read"), ("recebe", "receber", "receives", "receive"), ("envia", "enviar", "sends", "send"),
    ("filtra", "filtrar", "filters", "filter"), ("combina", "combinar", "combines", "combine"),
    ("limita", "limitar", "limits", "limit"), ("aquece", "aquecer", "heats", "heat"),
    ("cobre", "cobrir", "covers", "cover"),
)  # fmt: skip
_OBJECTS: tuple[tuple[str, str], ...] = (
    ("dados", "data"), ("textos longos", "long texts"), ("as chaves e os valores", "the keys and values"),
    ("a energia do sol", "the energy of the sun"), ("pedidos", "requests"), ("a água da chuva", "rain water"),
    ("os pesos do modelo", "the weights of the model"), ("imagens", "images"), ("sinais elétricos", "electric signals"),
    ("o sangue", "blood"), ("vetores", "vectors"), ("as respostas", "the answers"), ("documentos", "documents"),
    ("a temperatura", "the temperature"), ("o som", "sound"), ("a memória da GPU", "the memory of the GPU"),
    ("mensagens", "messages"), ("a luz", "light"), ("grãos", "grain"), ("os erros", "errors"), ("tokens", "tokens"),
    ("passagens", "passages"), ("a pressão", "pressure"), ("navios", "ships"), ("números", "numbers"),
)  # fmt: skip
_MANNERS: tuple[tuple[str, str], ...] = (
    ("em disco", "on disk"), ("durante a noite", "at night"), ("em uma só passada", "in one pass"),
    ("sem perder precisão", "without losing precision"), ("em blocos", "in blocks"), ("no inverno", "in winter"),
    ("antes de cada pedido", "before each request"), ("com pouca memória", "with little memory"),
    ("entre duas cidades", "between two towns"), ("por semelhança", "by similarity"), ("a cada hora", "every hour"),
)  # fmt: skip
_UNITS: dict[Language, dict[str, tuple[str, ...]]] = {
    "pt": {
        "length": ("quilômetros", "metros", "km", "centímetros"),
        "duration": ("segundos", "minutos", "horas", "dias", "anos", "ms"),
        "size": ("GiB", "MB", "tokens", "bytes", "linhas", "megabytes"),
        "people": ("habitantes", "milhões de habitantes", "mil pessoas", "alunos", "membros"),
        "mass": ("quilos", "gramas", "toneladas"),
        "count": ("salas", "peças", "páginas", "ilhas", "pontes", "camadas", "cabeças", "capítulos", "jogadores"),
        "degrees": ("graus", "graus Celsius", "°C"),
        "money": ("reais", "dólares", "euros", "milhões de reais"),
    },
    "en": {
        "length": ("kilometres", "metres", "km", "miles"),
        "duration": ("seconds", "minutes", "hours", "days", "years", "ms"),
        "size": ("GiB", "MB", "tokens", "bytes", "rows", "megabytes"),
        "people": ("inhabitants", "million inhabitants", "thousand people", "students", "members"),
        "mass": ("kilograms", "grams", "tonnes"),
        "count": ("rooms", "pieces", "pages", "islands", "bridges", "layers", "heads", "chapters", "players"),
        "degrees": ("degrees", "degrees Celsius", "°C"),
        "money": ("dollars", "pounds", "euros", "million dollars"),
    },
}
_COLOURS: dict[Language, tuple[str, ...]] = {
    "pt": words("vermelho azul verde amarelo branco preto roxo cinza laranja dourado"),
    "en": words("red blue green yellow white black purple grey orange golden"),
}


@dataclass(frozen=True, slots=True)
class Name:
    """A word or phrase, and the gender of its Portuguese article."""

    text: str
    gender: Gender = "n"


def invented_word(rng: Random, language: Language, *, syllables: int | None = None) -> str:
    """A lower-case pseudo-word; some Portuguese ones have an accent."""
    parts = []
    for _ in range(syllables or rng.choice((1, 1, 1, 2, 2))):
        vowel = rng.choice(_PT_ACCENTED) if language == "pt" and rng.random() < 0.08 else rng.choice(_VOWELS)
        parts.append(rng.choice(_ONSETS) + vowel + (rng.choice(_CODAS) if rng.random() < 0.25 else ""))
    if rng.random() < 0.6:
        parts.append(rng.choice(_ONSETS) if parts[-1][-1] in "aeiouáéíóúâêôã" else "")
        parts.append(rng.choice(_ENDINGS[language]))
    return "".join(parts)


def _capitalised(rng: Random, language: Language) -> str:
    word = invented_word(rng, language)
    return word[0].upper() + word[1:]


def person(rng: Random, language: Language) -> Name:
    """First name and surname, sometimes two surnames."""
    surnames = [_capitalised(rng, language) for _ in range(rng.choice((1, 1, 1, 2)))]
    link = rng.choice((" de ", " da ", " ")) if language == "pt" and len(surnames) == 2 else " "
    first = rng.choice(_FIRST_NAMES[language]) if rng.random() < 0.7 else _capitalised(rng, language)
    return Name(f"{first} {link.join(surnames)}", "n")


def place(rng: Random, language: Language) -> Name:
    """A country or region."""
    if rng.random() < 0.3:
        return Name(*rng.choice(_PLACES[language]))
    return Name(_capitalised(rng, language), rng.choice(("m", "f", "n")) if language == "pt" else "n")


def city(rng: Random, language: Language) -> Name:
    """A town, sometimes a real one; the facts about it are invented in any case."""
    if rng.random() < 0.25:
        return Name(rng.choice(_CITIES[language]))
    prefix = rng.choice(("São ", "Porto ", "Nova ") if language == "pt" else ("Saint ", "Port ", "New "))
    return Name((prefix if rng.random() < 0.15 else "") + _capitalised(rng, language))


def proper(rng: Random, language: Language) -> Name:
    """The name of a company, product, work or creature: one to three words, an acronym, or a word with a version."""
    form = rng.random()
    if form < 0.15:
        return Name(acronym(rng).text, rng.choice(("m", "f")) if language == "pt" else "n")
    if form < 0.25:
        return Name(f"{_capitalised(rng, language)} {rng.randint(1, 99)}")
    words = [_capitalised(rng, language) for _ in range(rng.choice((1, 1, 2)))]
    return Name(" ".join(words), rng.choice(("m", "f")) if language == "pt" else "n")


def acronym(rng: Random) -> Name:
    """Two to five capital letters."""
    return Name("".join(rng.choice("ABCDEFGHIJKLMNOPRSTUVWXZ") for _ in range(rng.choice((2, 3, 3, 4, 5)))), "m")


def setting(rng: Random) -> Name:
    """The name of a program's setting: `oruLimit`, `oru_limit`, `ORU_LIMIT`."""
    words = [invented_word(rng, "en", syllables=1)[:6] for _ in range(2)]
    form = rng.random()
    if form < 0.5:
        return Name("_".join(words))
    return Name("_".join(words).upper() if form < 0.75 else words[0] + words[1].capitalize())


def common(rng: Random, language: Language) -> Name:
    """A common noun: a real one with a qualifier, or an invented one."""
    if rng.random() < 0.5:
        return Name(invented_word(rng, language), rng.choice(("m", "f")) if language == "pt" else "n")
    return thing(rng, language)


def thing(rng: Random, language: Language) -> Name:
    """A real noun with an adjective or an invented qualifier."""
    portuguese, gender, english = rng.choice(_THINGS)
    masculine, feminine, adjective = rng.choice(_ADJECTIVES)
    if language == "pt":
        tail = (feminine if gender == "f" else masculine) if rng.random() < 0.4 else f"de {invented_word(rng, 'pt')}"
        return Name(f"{portuguese} {tail}", gender)
    return Name(f"{adjective if rng.random() < 0.4 else invented_word(rng, 'en')} {english}")


def action(rng: Random, language: Language, *, infinitive: bool = False) -> Name:
    """A verb with its object: "guarda os textos em disco", or "guardar …" as an infinitive."""
    forms = rng.choice(_VERBS)
    verb = forms[(1 if infinitive else 0) + (0 if language == "pt" else 2)]
    words = [verb, rng.choice(_OBJECTS)[0 if language == "pt" else 1]]
    if rng.random() < 0.5:
        words.append(rng.choice(_MANNERS)[0 if language == "pt" else 1])
    return Name(" ".join(words))


def definition(rng: Random, language: Language) -> Name:
    """A definition of a thing: "uma biblioteca aberta que ordena vetores"."""
    portuguese, gender, english = rng.choice(_THINGS)
    masculine, feminine, adjective = rng.choice(_ADJECTIVES)
    does = action(rng, language).text
    if language == "pt":
        adjective = f" {feminine if gender == 'f' else masculine}" if rng.random() < 0.5 else ""
        return Name(f"{'uma' if gender == 'f' else 'um'} {portuguese}{adjective} que {does}")
    noun = f"{adjective} {english}" if rng.random() < 0.5 else english
    return Name(f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} that {does}")


def year(rng: Random, _language: Language) -> Name:
    """Four digits."""
    return Name(str(rng.randint(1500, 2029)))


def date(rng: Random, language: Language) -> Name:
    """A day of a month, mostly with its year."""
    day, month = rng.randint(1, 28), rng.choice(_MONTHS[language])
    when = f" de {rng.randint(1500, 2029)}" if language == "pt" else f" {rng.randint(1500, 2029)}"
    stem = f"{day} de {month}" if language == "pt" else f"{day} {month}"
    return Name(stem + (when if rng.random() < 0.8 else ""))


def number(rng: Random, language: Language) -> str:
    """A number in one of the notations of prose."""
    form = rng.random()
    if form < 0.6:
        return str(rng.choice((rng.randint(1, 99), rng.randint(1, 999), 2 ** rng.randint(3, 14))))
    if form < 0.8:
        point = "," if language == "pt" else "."
        return f"{rng.randint(0, 99)}{point}{rng.randint(1, 99)}"
    return f"{rng.randint(1, 999)}{'.' if language == 'pt' else ','}{rng.randint(0, 999):03d}"


def quantity(unit: str) -> Callable[[Random, Language], Name]:
    """A function that draws numbers with a unit of that kind."""

    def draw(rng: Random, language: Language) -> Name:
        return Name(f"{number(rng, language)} {rng.choice(_UNITS[language][unit])}")

    return draw


def integer(rng: Random, _language: Language) -> Name:
    """A number without a unit, like a port, a status code or a limit."""
    return Name(str(rng.choice((rng.randint(0, 20), rng.randint(100, 599), rng.randint(1000, 65000)))))


def colour(rng: Random, language: Language) -> Name:
    """A colour."""
    return Name(rng.choice(_COLOURS[language]))


def parts(rng: Random, language: Language) -> Name:
    """A list of two to four things."""
    names = [
        invented_word(rng, language) if rng.random() < 0.5 else thing(rng, language).text
        for _ in range(rng.randint(2, 4))
    ]
    return Name(", ".join(names[:-1]) + (" e " if language == "pt" else " and ") + names[-1])


def expansion(rng: Random, language: Language) -> Name:
    """The long form of an acronym."""
    words = [_capitalised(rng, language) for _ in range(rng.randint(2, 4))]
    if rng.random() < 0.4:
        words = [word.lower() for word in words]
    return Name(" ".join(words))
