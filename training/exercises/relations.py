"""The relations that generated facts state and ask: phrasings in Portuguese and English, a row a relation.

In a phrasing {s} is the subject and {v} the value; in Portuguese {o_s}, {de_s}, {em_s}, {a_s} and the same of v carry the
article or its contraction ("do Brasil", "na França", "em Portugal"). A question about the value holds {s}; a question
about the subject ("backward") holds {v}. Phrasings are
parted by " | ", and by " || " where they state relations that must not be confused.
"""

# ruff: noqa: E501 - the table below is easier to read with a language's questions on one line

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from rag.interfaces import Language
from training.exercises import lexicon
from training.exercises.lexicon import Name, quantity

Draw = Callable[[Random, Language], Name]


@dataclass(frozen=True, slots=True)
class Phrasing:
    """How one language states a relation and asks for its value (forward) or for its subject (backward)."""

    statements: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation between a subject of a kind and a drawn value."""

    subject: str
    value: Draw
    phrasings: dict[Language, Phrasing]


def _infinitive(rng: Random, language: Language) -> Name:
    return lexicon.action(rng, language, infinitive=True)


def _does(rng: Random, language: Language) -> Name:
    return lexicon.action(rng, language)


def _setting(rng: Random, _language: Language) -> Name:
    return lexicon.setting(rng)


def _acronym(rng: Random, _language: Language) -> Name:
    return lexicon.acronym(rng)


SUBJECTS: dict[str, Draw] = {
    "place": lexicon.place,
    "city": lexicon.city,
    "person": lexicon.person,
    "work": lexicon.proper,
    "company": lexicon.proper,
    "software": lexicon.proper,
    "nature": lexicon.proper,
    "concept": lexicon.common,
    "setting": _setting,
    "acronym": _acronym,
}

_ROWS: tuple[tuple[str, Draw, str, str, str, str, str, str], ...] = (
    # subject kind, value, then statements, forward and backward questions: Portuguese, English
    ("place", lexicon.city,
     "a capital {de_s} é {v} | {v} é a capital {de_s} | a cidade de {v} é a capital {de_s} | {o_s} tem como capital {v}",
     "qual é a capital {de_s}? | qual a capital {de_s}? | que cidade é a capital {de_s}? | capital {de_s}?",
     "{v} é a capital de que país? | de onde {v} é capital?",
     "the capital of {s} is {v} | {v} is the capital of {s} | {s} has {v} as its capital | the capital city of {s} is {v}",
     "what is the capital of {s}? | which city is the capital of {s}? | what's the capital of {s}? | capital of {s}?",
     "{v} is the capital of which country? | of what country is {v} the capital?"),
    ("place", quantity("people"),
     "{o_s} tem {v} | a população {de_s} é de {v} | vivem {em_s} {v}",
     "qual é a população {de_s}? | quantos habitantes tem {o_s}? | quantas pessoas vivem {em_s}?", "",
     "{s} has {v} | the population of {s} is {v} | {v} live in {s}",
     "what is the population of {s}? | how many people live in {s}? | how many inhabitants does {s} have?", ""),
    ("place", lexicon.proper,
     "a moeda {de_s} é {o_v} | {em_s} a moeda é {o_v} | {o_s} usa {o_v} como moeda",
     "qual é a moeda {de_s}? | que moeda {o_s} usa? | qual moeda se usa {em_s}?",
     "que país usa {o_v} como moeda? | {o_v} é a moeda de que país?",
     "the currency of {s} is the {v} | {s} uses the {v} as its currency | in {s} people pay with the {v}",
     "what is the currency of {s}? | which currency does {s} use? | what currency is used in {s}?",
     "which country uses the {v} as its currency?"),
    ("place", lexicon.proper,
     "em {s} fala-se {v} | a língua oficial {de_s} é {o_v} | o idioma {de_s} é {o_v}",
     "que língua se fala {em_s}? | qual é a língua oficial {de_s}? | qual o idioma {de_s}?", "",
     "the official language of {s} is {v} | people in {s} speak {v} | {v} is the language spoken in {s}",
     "what is the official language of {s}? | which language is spoken in {s}? | what language do people speak in {s}?", ""),
    ("place", lexicon.proper,
     "o maior rio {de_s} é {o_v} | {o_v} é o rio mais longo {de_s} | o rio {v} atravessa {o_s}",
     "qual é o maior rio {de_s}? | que rio atravessa {o_s}? | qual o rio mais longo {de_s}?", "",
     "the longest river in {s} is the {v} | the {v} is the largest river of {s} | the river {v} runs through {s}",
     "what is the longest river in {s}? | which river runs through {s}? | what is the largest river of {s}?", ""),
    ("place", lexicon.proper,
     "o ponto mais alto {de_s} é o monte {v} | a montanha mais alta {de_s} é o {v} | o pico mais alto {de_s} é o {v}",
     "qual é o ponto mais alto {de_s}? | qual a montanha mais alta {de_s}? | qual é o pico mais alto {de_s}?", "",
     "the highest mountain in {s} is {v} | the highest point of {s} is Mount {v} | {v} is the tallest peak in {s}",
     "what is the highest mountain in {s}? | what is the highest point of {s}? | which is the tallest peak in {s}?", ""),
    ("place", lexicon.place,
     "{o_s} faz fronteira com {o_v} | {o_s} fica ao norte {de_v} | {o_s} é vizinho {de_v}",
     "com que país {o_s} faz fronteira? | {o_s} fica perto de que país? | qual é o vizinho {de_s}?", "",
     "{s} borders {v} | {s} shares a border with {v} | {s} lies north of {v}",
     "which country does {s} border? | what country shares a border with {s}? | which country is next to {s}?", ""),
    ("place", lexicon.person,
     "o presidente {de_s} é {v} | {v} governa {o_s} | {v} foi eleito presidente {de_s}",
     "quem é o presidente {de_s}? | quem governa {o_s}? | quem foi eleito presidente {de_s}?",
     "o que {v} governa? | {v} governa que país?",
     "the president of {s} is {v} | {v} governs {s} | {v} was elected president of {s}",
     "who is the president of {s}? | who governs {s}? | who was elected president of {s}?",
     "which country does {v} govern?"),
    ("place", lexicon.date,
     "{o_s} tornou-se independente em {v} | a independência {de_s} foi declarada em {v}",
     "quando {o_s} se tornou independente? | em que data foi declarada a independência {de_s}? | quando foi a independência {de_s}?", "",
     "{s} became independent on {v} | the independence of {s} was declared on {v}",
     "when did {s} become independent? | when was the independence of {s} declared? | on what date did {s} become independent?", ""),
    ("city", lexicon.year,
     "{s} foi fundada em {v} | a cidade de {s} foi fundada no ano de {v} | a fundação de {s} data de {v}",
     "quando {s} foi fundada? | em que ano foi fundada a cidade de {s}? | em que ano {s} foi fundada?",
     "que cidade foi fundada em {v}?",
     "{s} was founded in {v} | the city of {s} was founded in the year {v} | {s} dates from {v}",
     "when was {s} founded? | in what year was {s} founded? | in which year was the city of {s} founded?",
     "which city was founded in {v}?"),
    ("city", lexicon.place,
     "{s} fica {em_v} | a cidade de {s} está {em_v} | {s} localiza-se {em_v}",
     "onde fica {s}? | em que país fica {s}? | onde está a cidade de {s}? | onde se localiza {s}?", "",
     "{s} is in {v} | {s} lies in {v} | the town of {s} is located in {v}",
     "where is {s}? | in which country is {s}? | where is the town of {s} located? | where does {s} lie?", ""),
    ("city", lexicon.proper,
     "{s} fica às margens do rio {v} | o rio {v} passa por {s} | o rio {v} banha {s}",
     "que rio passa por {s}? | {s} fica às margens de que rio? | qual rio banha {s}?",
     "por que cidade passa o rio {v}? | que cidade é banhada pelo rio {v}?",
     "{s} stands on the river {v} | the river {v} flows through {s} | {s} lies on the banks of the {v}",
     "which river flows through {s}? | on which river does {s} stand? | what river runs through {s}?",
     "which city does the river {v} flow through?"),
    ("city", lexicon.proper,
     "{s} é conhecida pela festa {v} | a principal festa de {s} é {v} | todo ano {s} celebra {v}",
     "qual é a principal festa de {s}? | que festa {s} celebra? | por qual festa {s} é conhecida?", "",
     "{s} is known for the {v} festival | every year {s} celebrates {v} | the main festival of {s} is {v}",
     "what is the main festival of {s}? | which festival does {s} celebrate? | what is {s} known for?", ""),
    ("city", quantity("degrees"),
     "a temperatura média em {s} é de {v} | em {s} faz em média {v}",
     "qual é a temperatura média em {s}? | quantos graus faz em {s} em média?", "",
     "the average temperature in {s} is {v} | it is {v} in {s} on average",
     "what is the average temperature in {s}? | how warm is it in {s} on average?", ""),
    ("city", quantity("length"),
     "{s} fica a {v} da costa | a distância de {s} até o mar é de {v}",
     "a que distância da costa fica {s}? | qual a distância de {s} até o mar? | quão longe {s} fica do mar?", "",
     "{s} is {v} from the coast | the distance from {s} to the sea is {v}",
     "how far is {s} from the coast? | what is the distance from {s} to the sea?", ""),
    ("person", lexicon.year,
     "{s} nasceu em {v} | o nascimento de {s} foi em {v}",
     "quando {s} nasceu? | em que ano nasceu {s}? | qual o ano de nascimento de {s}?",
     "quem nasceu em {v}?",
     "{s} was born in {v} | the birth year of {s} is {v}",
     "when was {s} born? | in what year was {s} born? | what is the birth year of {s}?", "who was born in {v}?"),
    ("person", lexicon.city,
     "{s} é natural de {v} | {s} veio de {v} || {s} cresceu em {v} || {s} mora em {v} | {s} vive em {v}",
     "de onde é {s}? | de que cidade veio {s}? || onde {s} cresceu? | em que cidade cresceu {s}? || onde mora {s}? | onde vive {s}?",
     "quem é natural de {v}? | quem veio de {v}? || quem cresceu em {v}? || quem mora em {v}?",
     "{s} comes from {v} | {s} is from {v} || {s} grew up in {v} || {s} lives in {v} | the home of {s} is in {v}",
     "where does {s} come from? | where is {s} from? || where did {s} grow up? || where does {s} live?", "who comes from {v}? || who grew up in {v}? || who lives in {v}?"),
    ("person", lexicon.thing,
     "{s} inventou {o_v} | {o_v} foi uma invenção de {s}",
     "o que {s} inventou? | qual foi a invenção de {s}?", "quem inventou {o_v}? | quem foi o inventor {de_v}?",
     "{s} invented the {v} | the {v} was invented by {s}", "what did {s} invent? | what was invented by {s}?",
     "who invented the {v}? | who was the inventor of the {v}?"),
    ("person", lexicon.proper,
     "{s} trabalha {em_v} | {s} é funcionário {de_v} || {s} dirige {o_v}",
     "onde trabalha {s}? | em que empresa {s} trabalha? || o que {s} dirige?", "quem trabalha {em_v}? || quem dirige {o_v}?",
     "{s} works at {v} | {s} is an employee of {v} || {s} directs {v}",
     "where does {s} work? | at which company does {s} work? || what does {s} direct?", "who works at {v}? || who directs {v}?"),
    ("person", lexicon.colour,
     "a cor preferida de {s} é {v} | {s} gosta da cor {v}", "qual é a cor preferida de {s}? | de que cor {s} gosta?", "",
     "the favourite colour of {s} is {v} | {s} likes the colour {v}",
     "what is the favourite colour of {s}? | which colour does {s} like?", ""),
    ("work", lexicon.person,
     "{o_s} foi escrito por {v} | {v} escreveu {o_s} | o autor {de_s} é {v} | {o_s} é uma obra de {v}",
     "quem escreveu {o_s}? | quem é o autor {de_s}? | de quem é a obra {s}?",
     "o que {v} escreveu? | que obra {v} escreveu?",
     "{s} was written by {v} | {v} wrote {s} | the author of {s} is {v} | {s} is a book by {v}",
     "who wrote {s}? | who is the author of {s}? | by whom was {s} written?",
     "what did {v} write? | which book did {v} write?"),
    ("work", lexicon.date,
     "{o_s} estreou em {v} | {o_s} foi publicado em {v} | a primeira edição {de_s} saiu em {v}",
     "quando {o_s} estreou? | quando {o_s} foi publicado? | quando saiu a primeira edição {de_s}?", "",
     "{s} was published on {v} | {s} came out on {v} | the first edition of {s} appeared on {v}",
     "when was {s} published? | when did {s} come out? | when did the first edition of {s} appear?", ""),
    ("work", quantity("count"),
     "{o_s} tem {v} | {o_s} contém {v} | {o_s} é composto por {v}",
     "o que tem {o_s}? | de que é composto {o_s}? | o que {o_s} contém?", "",
     "{s} has {v} | {s} contains {v} | {s} consists of {v}", "what does {s} have? | what does {s} contain? | what does {s} consist of?", ""),
    ("company", lexicon.person,
     "{o_s} foi fundada por {v} | {v} fundou {o_s} | o fundador {de_s} é {v} | {v} criou {o_s}",
     "quem fundou {o_s}? | quem é o fundador {de_s}? | quem criou {o_s}? | por quem foi fundada {o_s}?",
     "o que {v} fundou? | que empresa {v} criou?",
     "{s} was founded by {v} | {v} founded {s} | the founder of {s} is {v} | {v} started {s}",
     "who founded {s}? | who is the founder of {s}? | who started {s}? | by whom was {s} founded?",
     "what did {v} found? | which company did {v} start?"),
    ("company", lexicon.city,
     "a sede {de_s} fica em {v} | {o_s} tem sede em {v} | os escritórios {de_s} ficam em {v}",
     "onde fica a sede {de_s}? | em que cidade {o_s} tem sede? | onde ficam os escritórios {de_s}?",
     "que empresa tem sede em {v}?",
     "the headquarters of {s} are in {v} | {s} is based in {v} | the main office of {s} is in {v}",
     "where is {s} based? | where are the headquarters of {s}? | in which city is the main office of {s}?",
     "which company is based in {v}?"),
    ("company", quantity("money"),
     "{o_s} faturou {v} | a receita {de_s} foi de {v} || {o_s} vale {v} | o valor {de_s} é de {v}",
     "quanto {o_s} faturou? | qual foi a receita {de_s}? || quanto vale {o_s}? | qual é o valor {de_s}?", "",
     "{s} earned {v} | the revenue of {s} was {v} || {s} is worth {v} | {s} costs {v}",
     "how much did {s} earn? | what was the revenue of {s}? || how much is {s} worth? | how much does {s} cost?", ""),
    ("company", lexicon.thing,
     "{o_s} fabrica {v} | {o_s} vende {v} | o principal produto {de_s} é {v}",
     "o que {o_s} fabrica? | o que {o_s} vende? | qual é o principal produto {de_s}?",
     "quem fabrica {v}? | quem vende {v}?",
     "{s} makes a {v} | {s} sells a {v} | the main product of {s} is a {v}",
     "what does {s} make? | what does {s} sell? | what is the main product of {s}?", "who makes a {v}? | who sells a {v}?"),
    ("software", lexicon.integer,
     "{o_s} escuta na porta {v} | a porta padrão {de_s} é {v} | {o_s} atende na porta {v}",
     "em que porta {o_s} escuta? | qual é a porta padrão {de_s}? | em que porta {o_s} atende? | qual a porta {de_s}?", "",
     "{s} listens on port {v} | the default port of {s} is {v} | {s} serves on port {v}",
     "on which port does {s} listen? | what is the default port of {s}? | what port does {s} use? | which port does {s} serve on?", ""),
    ("software", lexicon.integer,
     "{o_s} responde com o código {v} quando está cheio | o código de status {de_s} é {v} | {o_s} devolve o status {v}",
     "com que código {o_s} responde? | qual é o código de status {de_s}? | que status {o_s} devolve?", "",
     "{s} answers with code {v} when it is full | the status code of {s} is {v} | {s} returns status {v}",
     "with which code does {s} answer? | what is the status code of {s}? | which status does {s} return?", ""),
    ("software", quantity("duration"),
     "o tempo limite {de_s} é de {v} | {o_s} espera no máximo {v} || {o_s} leva {v} para iniciar",
     "qual é o tempo limite {de_s}? | quanto tempo {o_s} espera? || quanto tempo {o_s} leva para iniciar? | em quanto tempo {o_s} inicia?", "",
     "the time-out of {s} is {v} | {s} waits at most {v} || {s} takes {v} to start | {s} starts in {v}",
     "what is the time-out of {s}? | how long does {s} wait? || how long does {s} take to start? | in how much time does {s} start?", ""),
    ("software", quantity("size"),
     "{o_s} aceita no máximo {v} | o limite {de_s} é de {v} || {o_s} ocupa {v} de memória",
     "qual é o limite {de_s}? | quanto {o_s} aceita no máximo? || quanta memória {o_s} ocupa? | quanto {o_s} ocupa de memória?", "",
     "{s} accepts at most {v} | the limit of {s} is {v} || {s} takes {v} of memory",
     "what is the limit of {s}? | how much does {s} accept at most? || how much memory does {s} take?", ""),
    ("software", lexicon.proper,
     "{o_s} é escrito em {v} | {o_s} foi desenvolvido na linguagem {v} | o código {de_s} está em {v}",
     "em que linguagem {o_s} é escrito? | em que linguagem está o código {de_s}?", "",
     "{s} is written in {v} | the code of {s} is in {v} | {s} was developed in {v}",
     "in which language is {s} written? | what language is {s} written in? | what is the code of {s} in?", ""),
    ("software", _infinitive,
     "{o_s} serve para {v} | {o_s} é usado para {v} | usa-se {o_s} para {v}",
     "para que serve {o_s}? | para que {o_s} é usado? | para que se usa {o_s}?",
     "o que serve para {v}? | o que se usa para {v}?",
     "{s} is used to {v} | the purpose of {s} is to {v} | people use {s} to {v}",
     "what is {s} used for? | what is the purpose of {s}? | why do people use {s}?", "what is used to {v}?"),
    ("software", lexicon.definition,
     "{o_s} é {v} | {s} é {v}", "o que é {o_s}? | o que é {s}? | defina {s}.", "o que é {v}?",
     "{s} is {v}", "what is {s}? | define {s}.", "what is {v}?"),
    ("nature", lexicon.place,
     "{o_s} vive {em_v} | {o_s} é encontrado {em_v} | encontra-se {o_s} {em_v}",
     "onde vive {o_s}? | onde {o_s} é encontrado? | onde se encontra {o_s}?", "",
     "the {s} lives in {v} | the {s} is found in {v}", "where does the {s} live? | where is the {s} found?", ""),
    ("nature", quantity("length"),
     "{o_s} mede {v} | {o_s} chega a {v} | a altura {de_s} é de {v}",
     "quanto mede {o_s}? | qual é a altura {de_s}? | qual o tamanho {de_s}?", "",
     "the {s} measures {v} | the {s} is {v} tall | the height of the {s} is {v}",
     "how tall is the {s}? | what is the height of the {s}? | how long is the {s}?", ""),
    ("nature", quantity("mass"),
     "{o_s} pesa {v} | o peso {de_s} é de {v}", "quanto pesa {o_s}? | qual é o peso {de_s}?", "",
     "the {s} weighs {v} | the weight of the {s} is {v}", "how much does the {s} weigh? | what is the weight of the {s}?", ""),
    ("nature", lexicon.common,
     "{o_s} come {v} | {o_s} se alimenta de {v}", "o que come {o_s}? | de que se alimenta {o_s}?", "o que se alimenta de {v}?",
     "the {s} eats {v} | the {s} feeds on {v}", "what does the {s} eat? | what does the {s} feed on?", "what feeds on {v}?"),
    ("concept", lexicon.definition,
     "{o_s} é {v} | chama-se {s} {v}", "o que é {o_s}? | o que é {s}? | o que significa {s}?", "como se chama {v}?",
     "the {s} is {v} | a {s} is {v}", "what is the {s}? | what is a {s}? | define {s}.", "what is {v} called?"),
    ("concept", lexicon.parts,
     "{o_s} é formado por {v} | {o_s} tem três partes: {v} | as partes {de_s} são {v} | {o_s} contém {v}",
     "de que é formado {o_s}? | quais são as partes {de_s}? | o que contém {o_s}? | que partes tem {o_s}?", "",
     "the {s} is made of {v} | the parts of the {s} are {v} | the {s} consists of {v} | the {s} contains {v}",
     "what is the {s} made of? | what are the parts of the {s}? | what does the {s} consist of? | what does the {s} contain?", ""),
    ("concept", _does,
     "{o_s} {v} | {o_s} sempre {v}", "o que faz {o_s}? | o que {o_s} faz?", "o que {v}? | quem {v}?",
     "the {s} {v} | the {s} always {v}", "what does the {s} do?", "what {v}? | which one {v}?"),
    ("concept", lexicon.common,
     "{o_s} depende {de_v} || o contrário {de_s} é {o_v} || {o_s} vem {de_v}",
     "de que depende {o_s}? || qual é o contrário {de_s}? || de onde vem {o_s}?", "o que depende {de_v}? ||  || o que vem {de_v}?",
     "the {s} depends on the {v} || the opposite of the {s} is the {v} || the {s} comes from the {v}",
     "what does the {s} depend on? || what is the opposite of the {s}? || where does the {s} come from?",
     "what depends on the {v}? ||  || what comes from the {v}?"),
    ("setting", lexicon.integer,
     "o valor padrão de {s} é {v} | por padrão {s} vale {v} | {s} vale {v} se nada for dito",
     "qual é o valor padrão de {s}? | quanto vale {s} por padrão? | qual o padrão de {s}?", "",
     "the default of {s} is {v} | {s} defaults to {v} | by default {s} is {v}",
     "what is the default of {s}? | what does {s} default to? | what is {s} by default?", ""),
    ("setting", _infinitive,
     "a variável {s} serve para {v} | {s} é usada para {v}", "para que serve a variável {s}? | para que serve {s}?",
     "que variável serve para {v}? | o que é usado para {v}?",
     "the variable {s} is used to {v} | set {s} to {v}", "what is the variable {s} used for? | what does {s} do?",
     "which variable is used to {v}?"),
    ("setting", quantity("size"),
     "o valor máximo de {s} é {v} | {s} pode ter até {v}", "qual é o valor máximo de {s}? | até quanto {s} pode ter?", "",
     "the maximum of {s} is {v} | {s} may be up to {v}", "what is the maximum of {s}? | how large may {s} be?", ""),
    ("acronym", lexicon.expansion,
     "{s} significa {v} | a sigla {s} quer dizer {v} | {s} é a sigla de {v} | {s} vem de {v}",
     "o que significa {s}? | o que quer dizer a sigla {s}? | {s} é a sigla de quê?", "qual é a sigla de {v}?",
     "{s} stands for {v} | {s} means {v} | {s} is short for {v} | the letters {s} stand for {v}",
     "what does {s} stand for? | what does {s} mean? | what is {s} short for?", "what is the short form of {v}?"),
    ("acronym", lexicon.person,
     "{o_s} foi proposto por {v} | {v} propôs {o_s}", "quem propôs {o_s}? | por quem {o_s} foi proposto?", "o que {v} propôs?",
     "{s} was proposed by {v} | {v} proposed {s}", "who proposed {s}? | by whom was {s} proposed?", "what did {v} propose?"),
)  # fmt: skip


def _groups(text: str, count: int) -> list[tuple[str, ...]]:
    groups = [tuple(filter(None, map(str.strip, group.split(" | ")))) for group in text.split("||")]
    return groups if len(groups) == count else [()] * count


def _relations(subject: str, value: Draw, texts: list[str]) -> list[Relation]:
    """A row's relations: statements that ask for questions of their own stand in groups parted by "||"."""
    count = texts[0].count("||") + 1
    pt_statements, pt_forward, pt_backward, en_statements, en_forward, en_backward = (
        _groups(text, count) for text in texts
    )
    return [
        Relation(
            subject,
            value,
            {
                "pt": Phrasing(pt_statements[group], pt_forward[group], pt_backward[group]),
                "en": Phrasing(en_statements[group], en_forward[group], en_backward[group]),
            },
        )
        for group in range(count)
    ]


RELATIONS: tuple[Relation, ...] = tuple(
    relation for subject, value, *texts in _ROWS for relation in _relations(subject, value, texts)
)

_ARTICLES: dict[str, dict[str, str]] = {
    "o": {"m": "o ", "f": "a ", "n": ""},
    "de": {"m": "do ", "f": "da ", "n": "de "},
    "em": {"m": "no ", "f": "na ", "n": "em "},
    "a": {"m": "ao ", "f": "à ", "n": "a "},
}


def fill(phrasing: str, subject: Name, value: Name) -> str:
    """The phrasing with its slots filled; its first letter stays as it is."""
    slots = {"s": subject.text, "v": value.text}
    for slot, name in (("s", subject), ("v", value)):
        for preposition, forms in _ARTICLES.items():
            slots[f"{preposition}_{slot}"] = forms[name.gender] + name.text
    return phrasing.format(**slots)


def capitalise(sentence: str) -> str:
    """The sentence with a capital first letter, unless it starts with a setting, which keeps its own spelling."""
    first = sentence.split(" ", 1)[0]
    return sentence if "_" in first or not first.islower() else sentence[0].upper() + sentence[1:]
