"""Chat templates are strangers' programs: sandboxed, and kept from losing or forging a turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.engine.chat import ChatFormat
from evenhand.engine.prompt import Message, Segment
from evenhand.schemas.errors import ModelFileError

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{{ '<start_of_turn>model\\n' }}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}"
    "{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if message['role'] == 'user' %}"
    "{%- if loop.last and system is defined %}"
    "{{- '[INST] ' + system + '\\n\\n' + message['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
TALK = (
    Message.text("system", "Be kind."),
    Message.text("user", "Who?"),
    Message.text("assistant", "Me."),
    Message.text("user", "Why?"),
)


def text(source: str | None, messages: tuple[Message, ...] = TALK) -> str:
    chat = ChatFormat(source, bos="<s>", eos="</s>")
    return "".join(s.text for s in chat.segments(messages))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            CHATML,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
            "<|im_start|>assistant\nMe.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            LLAMA3,
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nMe.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            GEMMA,  # takes no system turn: its text heads the first user turn
            "<s><start_of_turn>user\nBe kind.\n\nWho?<end_of_turn>\n<start_of_turn>model\nMe."
            "<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            MISTRAL,
            "<s>[INST] Who?[/INST] Me.</s>[INST] Be kind.\n\nWhy?[/INST]",
        ),
        (
            None,  # Llama 2's own, where a file has no template
            "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWho? [/INST] Me. </s><s>[INST] Why? [/INST]",
        ),
    ],
)
def test_well_known_formats(source: str | None, expected: str) -> None:
    assert text(source) == expected


def test_only_the_templates_words_are_control_and_constant() -> None:
    chat = ChatFormat(CHATML)
    words = Segment("Judge this: ", constant=True)
    segments = chat.segments([Message("user", (words, Segment("a<|x|>", cut=True)))])
    assert [(s.control, s.constant, s.cut) for s in segments] == [
        (True, True, False),
        (False, True, False),
        (False, False, True),
        (True, True, False),
    ]


# -- programs that do harm --------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0].content }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}{{ messages[0].content }}",
        "{{ messages.__class__.__base__ }}{{ messages[0].content }}",
        "{% import 'os' as os %}{{ messages[0].content }}",
        "{% include '/etc/passwd' %}{{ messages[0].content }}",
        "{{ messages.append(1) }}{{ messages[0].content }}",
        "{{ raise_exception.__globals__.os }}{{ messages[0].content }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ messages[0].content }}",
        "{% for i in range(10**9) %}{% endfor %}{{ messages[0].content }}",
        "{{ 1 / 0 }}{{ messages[0].content }}",
        "{{ nothing.at.all }}{{ messages[0].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ raise_exception('no') }}",
    ],
)
@pytest.mark.parametrize("roles", [("user",), ("system", "user")])
def test_a_harmful_or_broken_template_is_refused(source: str, roles: tuple[str, ...]) -> None:
    chat = ChatFormat(source)
    with pytest.raises(ModelFileError) as caught:
        chat.segments([Message.text(role, "hello") for role in roles])
    assert caught.value.hint


@pytest.mark.parametrize("name", ["__globals__", "__class__", "__code__", "__self__"])
@pytest.mark.parametrize("of", ["raise_exception", "strftime_now", "messages", "cycler", "''"])
def test_nothing_behind_a_name_can_be_read(of: str, name: str) -> None:
    source = f"{{{{ {of}.{name} }}}}{{{{ {of} | attr('{name}') }}}}{{{{ messages[0].content }}}}"
    assert text(source, (Message.text("user", "hello"),)) == "hello"


@pytest.mark.parametrize("source", ["{% for %}", "{{ messages", "{% nonsense %}"])
def test_a_template_that_is_no_jinja_is_refused_at_once(source: str) -> None:
    with pytest.raises(ModelFileError, match=r"line 1"):
        ChatFormat(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "hello",
        "{{ messages[-1].content }}",  # drops the system turn
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content[:1] }}{% endfor %}",
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{% endfor %}",
        "{% for m in messages %}{{ m.content | e | upper | replace('\ue002', '') }}{% endfor %}",
    ],
)
def test_a_template_that_loses_a_turn_is_refused(source: str) -> None:
    with pytest.raises(ModelFileError, match="leaves out"):
        ChatFormat(source).segments([Message.text("system", "s"), Message.text("user", "u")])


def test_contents_that_are_trimmed_or_shown_twice_stay_whole_and_plain() -> None:
    source = "{% for m in messages %}<a>{{ m.content | trim }}<b>{{ m.content }}{% endfor %}"
    segments = ChatFormat(source).segments([Message.text("user", " x </s> ")])
    shown = [s for s in segments if not s.control]
    assert [s.text for s in shown] == [" x </s> "] * 2
    assert [s.text for s in segments if s.control] == ["<a>", "<b>"]


def test_the_prompt_does_not_change_with_the_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}"
    assert text(source, (Message.text("user", "!"),)) == "26 Jul 2024!"


# -- contents that forge a turn ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "marker"),
    [
        (None, "[/INST]"), (None, "[INST]"), (None, "<<SYS>>"), (None, "<</SYS>>"),
        (None, "<s>"), (MISTRAL, "[/INST]"), (CHATML, "<|im_end|>"),
        (CHATML, "<|im_start|>"), (LLAMA3, "<|eot_id|>"), (GEMMA, "<end_of_turn>"),
        ("{% for m in messages %}USER: {{ m.content }}\nASSISTANT:{% endfor %}", "ASSISTANT:"),
        ("{% for m in messages %}<｜New｜>{{ m.content }}<|turn_7|>{% endfor %}", "<｜New｜>"),
        ("{% for m in messages %}<｜New｜>{{ m.content }}<|turn_7|>{% endfor %}", "<|turn_7|>"),
        ("{% for m in messages %}[NEW_TURN]{{ m.content }}[/NEW_TURN]{% endfor %}", "[/NEW_TURN]"),
    ],
)  # fmt: skip
def test_a_content_cannot_spell_the_formats_own_markers(source: str | None, marker: str) -> None:
    chat = ChatFormat(source, bos="<s>", eos="</s>")
    messages = [Message.text("system", "s"), Message.text("user", f"a{marker}b{marker * 2}")]
    honest = "".join(s.text for s in chat.segments([messages[0], Message.text("user", "ab")]))
    if source is not None and source.startswith("{% for m in messages %}USER"):
        messages = messages[1:]
        honest = "".join(s.text for s in chat.segments([Message.text("user", "ab")]))
    segments = chat.segments(messages)
    assert sum(s.neutralised for s in segments) == 3
    whole = "".join(s.text for s in segments)
    assert whole.count(marker) == honest.count(marker)


def test_markers_of_other_formats_are_left_alone() -> None:
    segments = ChatFormat(CHATML).segments([Message.text("user", "what is [INST]?")])
    assert segments[1].text == "what is [INST]?"
    assert segments[1].neutralised == 0


@given(st.text())
def test_no_content_changes_the_words_of_the_template(content: str) -> None:
    chat = ChatFormat(CHATML)
    with_content = chat.segments([Message.text("user", content)])
    without = chat.segments([Message.text("user", "")])
    assert [s for s in with_content if s.control] == [s for s in without if s.control]


def test_no_messages_at_all() -> None:
    with pytest.raises(ModelFileError):
        ChatFormat(None).segments([])
