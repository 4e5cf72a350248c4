//! # Tests of templates
//!
//! Job: each construct with what Helm makes of it. Callers: `cargo test`.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn no_certificates(_: &str, _: &[String], _: u32) -> Result<Certificate, String> {
    Err("no certificates in this test".to_owned())
}

fn rendered(text: &str, dot: &Value) -> Result<String, TemplateError> {
    let mut templates = Templates::default();
    templates.add("t.yaml", text)?;
    templates.render("t.yaml", dot, &no_certificates)
}

#[track_caller]
fn gives(text: &str, dot: Value, expected: &str) {
    assert_eq!(rendered(text, &dot).unwrap(), expected, "{text}");
}

#[track_caller]
fn fails(text: &str, dot: Value, expected: &str) {
    let error = rendered(text, &dot).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn values_and_white_space() {
    gives("a: {{ .x.y }}\n", json!({"x": {"y": 1}}), "a: 1\n");
    gives("a\n{{- /* gone */ -}}\n b", json!({}), "ab");
    gives("{{ if .x -}}\n  yes\n{{- end }}!", json!({"x": "s"}), "yes!");
    gives("[{{ .missing }}]", json!({}), "[]");
}

#[test]
fn blocks() {
    let text = "{{ if eq .x 1 }}one{{ else if eq .x 2 3 }}few{{ else }}many{{ end }}";
    for (x, said) in [(1, "one"), (3, "few"), (9, "many")] {
        gives(text, json!({ "x": x }), said);
    }
    gives("{{ with .x }}{{ .y }}{{ else }}-{{ end }}", json!({"x": {"y": 2}}), "2");
    gives("{{ with .x }}{{ .y }}{{ else }}-{{ end }}", json!({}), "-");
    gives("{{ range $i, $v := .l }}{{ $i }}{{ $v }};{{ end }}", json!({"l": ["a", "b"]}), "0a;1b;");
    gives("{{ range $k, $v := . }}{{ $k }}{{ $v }};{{ end }}", json!({"b": 1, "a": 2}), "a2;b1;");
    gives("{{ range .l }}x{{ else }}none{{ end }}", json!({"l": []}), "none");
    gives("{{ range .l }}{{ $.p }}{{ . }}{{ end }}", json!({"l": [1, 2], "p": "-"}), "-1-2");
}

#[test]
fn variables_end_with_their_block() {
    gives("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", json!({}), "2");
    gives("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", json!({}), "1");
    fails("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", json!({}), "there is no $x");
}

#[test]
fn definitions_and_includes() {
    let text =
        "{{ define \"a\" }}<{{ .v }}>{{ end }}{{ include \"a\" . | quote }}{{ template \"a\" . }}";
    gives(text, json!({"v": 1}), "\"<1>\"<1>");
    let text = "{{ define \"a\" }}{{ include \"a\" . }}{{ end }}{{ include \"a\" . }}";
    fails(text, json!({}), "nested more than");
}

#[test]
fn functions_mean_what_helm_means() {
    for (text, expected) in [
        ("{{ .none | default \"d\" }}", "d"),
        ("{{ default \"d\" .s }}", "s"),
        ("{{ printf \"%s-%d\" .s 3 }}", "s-3"),
        ("{{ toYaml .m | nindent 2 }}", "\n  k: v"),
        ("{{ ternary \"a\" \"b\" true }}", "a"),
        ("{{ (list 1 2) | toJson }}", "[1,2]"),
        ("{{ dict \"b\" 1 \"a\" .s | toJson }}", "{\"a\":\"s\",\"b\":1}"),
        ("{{ or .none .s }}{{ and .s .none }}", "s"),
        ("{{ not (and .s (eq .s \"s\")) }}", "false"),
        ("{{ \" x \" | trim | b64enc }}", "eA=="),
        ("{{ replace \"a\" \"b\" \"aa\" }}", "bb"),
        ("{{ splitList \",\" \"a,b\" | join \"+\" }}", "a+b"),
        ("{{ (.none).deep }}", ""),
        ("{{ hasKey .m \"k\" }}{{ index .m \"k\" }}{{ len .m }}", "truev1"),
        ("{{ merge (dict \"a\" 1) (dict \"a\" 2 \"b\" 3) | toJson }}", "{\"a\":1,\"b\":3}"),
        ("{{ has \"a\" (list \"a\") }}{{ contains \"b\" \"abc\" }}", "truetrue"),
        ("{{ regexMatch \"^a+$\" \"aa\" }}{{ int \"7\" }}{{ gt 2 1 }}", "true7true"),
        ("{{ `raw \"}}` }}", "raw \"}}"),
    ] {
        gives(text, json!({"s": "s", "m": {"k": "v"}}), expected);
    }
}

#[test]
fn errors_name_file_line_and_remedy() {
    fails("\n\n{{ .a.b }}", json!({}), "t.yaml:3: .a is not set");
    fails("x\n{{ env \"HOME\" }}", json!({}), "t.yaml:2: `env` is not among the allowed functions");
    fails("{{ required \"set x\" .x }}", json!({}), "t.yaml:1: required: set x");
    fails("{{ fail \"stop\" }}", json!({}), "stop");
    fails("{{ if .x }}", json!({}), "has no `end`");
    fails("{{ .x", json!({}), "not closed");
    fails("{{ end }}", json!({}), "without a beginning");
    fails("{{ .m }}", json!({"m": {}}), "use toYaml");
    fails("{{ include \"gone\" . }}", json!({}), "there is no template `gone`");
    fails("{{ (.x }}", json!({}), "`(` is not closed");
}
