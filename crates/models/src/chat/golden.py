"""Writes golden.json: templates in the styles of known models, rendered by Python's jinja2 in the
setting of transformers.

    pip install jinja2 && python3 golden.py
"""

import json
from datetime import datetime, timezone
from pathlib import Path

from jinja2.ext import loopcontrols
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1_721_952_000  # 26 July 2024

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2000" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message is taken out -#}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(asking=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.asking and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.asking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("only user and assistant, not " ~ message.role.upper()) }}
    {%- endif %}
{%- endfor %}
"""

# Blanks, Python's methods, printing, macros, loop controls.
ODDS = """   {% if true %}
kept
   {% endif %}
  {{ messages | length }}|{{ true }}|{{ none }}|{{ missing }}|{{ 1.5 }}|{{ 7 // 2 }}|{{ 'a' ~ 1 }}
{% macro tag(x, sep='-') %}<{{ x.title() }}{{ sep }}{{ x | upper }}>{% endmacro %}
{{ tag('ab') }} {{ tag('cd', sep='+') }}
{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
{% if loop.index > 3 %}{% break %}{% endif %}
{{ loop.index }} {{ m.get('role', '?') }} {{ m.get('name', '?') }} {{ m.content.replace('a', 'A').split(' ')[0] }} {{ loop.previtem.role if loop.previtem is defined else 'first' }}
{% endfor %}
{% for k, v in messages[0].items() %}{{ k }}={{ v | tojson }};{% endfor %}
{{ messages | tojson }}
{{ {'b': [1, 2.5, none, false], 'a': 'é<&>"'} | tojson(indent=2) }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}
{{ ' x '.strip() }}|{{ 'xay'.find('a') }}|{{ ['b', 'a'] | sort }}|{{ 'abc'[::-1] }}|{{ (messages | last)['content'][:3] }}
{%- if not messages -%} none {%- endif %}
"""

TALKS = [
    [("user", "Hi there")],
    [("system", " Be brief. "), ("user", "What is 2 + 2?"), ("assistant", " 4 "), ("user", "Naïve 日本 <|x|>")],
    [("user", "a b"), ("assistant", "<think>\nhm\n</think>\n\nYes\n"), ("user", "c"), ("assistant", "<think>\nso\n</think>\nNo")],
    [("user", "one"), ("user", "two")],
    [("tool", "lost")],
]


def raise_exception(message):
    raise TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format):
    return datetime.fromtimestamp(NOW, timezone.utc).strftime(format)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
env.filters["tojson"] = tojson
env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
out = []
for name, source in [("chatml", CHATML), ("llama3", LLAMA3), ("qwen3", QWEN3), ("mistral", MISTRAL), ("odds", ODDS)]:
    cases = []
    for talk in TALKS:
        for prompt in [True, False]:
            messages = [{"role": r, "content": c} for r, c in talk]
            case = {"messages": messages, "add_generation_prompt": prompt}
            try:
                case["text"] = env.from_string(source).render(
                    messages=messages, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>",
                    tools=None, documents=None,
                )
            except TemplateError as error:
                case["refused"] = str(error)
            cases.append(case)
    out.append({"name": name, "template": source, "cases": cases})
text = json.dumps({"now": NOW, "templates": out}, ensure_ascii=False, indent=1)
Path(__file__).with_name("golden.json").write_text(text + "\n")
