use super::*;
use serde_json::Value as Json;

/// Rendered by Python's jinja2: golden.py.
const GOLDEN: &str = include_str!("golden.json");

fn list<'j>(json: &'j Json, key: &str) -> &'j [Json] {
    json[key].as_array().expect(key)
}

fn text<'j>(json: &'j Json, key: &str) -> &'j str {
    json[key].as_str().expect(key)
}

#[test]
fn templates_give_what_jinja2_gives() {
    let golden: Json = serde_json::from_str(GOLDEN).expect("JSON");
    let mut refused = 0;
    for template in list(&golden, "templates") {
        let chat = ChatTemplate::new(text(template, "template")).expect("a template");
        let chat = chat.at(golden["now"].as_i64());
        for case in list(template, "cases") {
            let messages: Vec<Message> = list(case, "messages")
                .iter()
                .map(|m| Message::new(text(m, "role"), text(m, "content")))
                .collect();
            let prompt = case["add_generation_prompt"] == true;
            let got = chat.render(&messages, prompt, Some("<s>"), Some("</s>"));
            let name = text(template, "name");
            match (got, case.get("refused")) {
                (Ok(got), None) => assert_eq!(got, text(case, "text"), "{name} {messages:?}"),
                (Err(ChatError::Refused(why)), Some(want)) => {
                    assert_eq!(want, &why, "{name}");
                    refused += 1;
                }
                (got, want) => panic!("{name} {messages:?}: {got:?}, {want:?}"),
            }
        }
    }
    assert_eq!(refused, 4);
}

#[test]
fn a_template_that_does_not_hold_is_an_error_with_its_line() {
    let error = ChatTemplate::new("a\n{% if %}").expect_err("no Jinja").to_string();
    assert!(error.starts_with("chat template, line 2: syntax error"), "{error}");
    for source in ["\n{{ messages[0].nothing.more }}", "\n{{ 'a'.no_method() }}", "\n{{ 1 + 'a' }}"]
    {
        let chat = ChatTemplate::new(source).expect("Jinja");
        let error = chat.render(&[Message::new("user", "x")], true, None, None);
        let error = error.expect_err(source).to_string();
        assert!(error.starts_with("chat template, line 2: "), "{source}: {error}");
    }
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let chat = ChatTemplate::new(loops).expect("Jinja");
    let error = chat.render(&[], true, None, None).expect_err("stopped").to_string();
    assert!(error.contains("fuel"), "{error}");
    let itself = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(ChatTemplate::new(itself).expect("Jinja").render(&[], true, None, None).is_err());
}

#[test]
fn now_is_told_where_no_moment_is_given() {
    let chat = ChatTemplate::new("{{ strftime_now('%Y') }}").expect("a template");
    let year: i64 = chat.render(&[], true, None, None).expect("text").parse().expect("a year");
    assert!((2025..3000).contains(&year), "{year}");
}
