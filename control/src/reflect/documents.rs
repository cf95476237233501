//! A manifest file's bytes → its documents as JSON values, with the faults of each.
//!
//! Decides where documents begin, so that a malformed one takes nothing else along. Needs the file's bytes. Leaves kinds
//! and fields to [`crate::object`]. A file is hostile input: size, depth, nodes and alias expansion are bounded.

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

/// Largest manifest file, in bytes. 10,000 Services with 100,000 endpoints in one file are about 30 MB.
pub const LARGEST_FILE: u64 = 64 << 20;
/// YAML nodes (scalars, lists, mappings) in one document, aliases expanded: bounds what a "billion laughs" costs.
const MOST_NODES: usize = 4_000_000;
const MOST_REPLAYED: usize = 200_000;
/// Nesting of lists and mappings; Kubernetes objects need about 12.
const DEEPEST: usize = 64;

/// One document of a file.
#[derive(Debug)]
pub struct Document {
    /// Counted from 1, empty ones included: the n-th part between `---` lines.
    pub number: usize,
    /// The document, or what is wrong with its syntax.
    pub value: Result<Value, SyntaxError>,
    /// What is wrong with it all the same: it can be read in more than one way, or bytes of it not at all.
    pub doubt: Option<Doubt>,
}

/// Why a document may not mean what was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A key is there twice; the first was taken.
    Twice(SyntaxError),
    /// Bytes are no UTF-8; U+FFFD was taken for them.
    Bytes(SyntaxError),
}

impl Doubt {
    /// What is wrong.
    pub fn error(&self) -> &SyntaxError {
        let (Doubt::Twice(error) | Doubt::Bytes(error)) = self;
        error
    }
}

/// A document that is no YAML or JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line of the file, counted from 1, when known.
    pub line: Option<usize>,
    /// What is wrong.
    pub why: String,
    /// Kind, namespace and name as far as the text still shows them.
    pub looks_like: Option<(String, String, String)>,
}

/// Splits and parses. Documents without content are left out.
pub fn parse(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut number = 0;
    for (line, part) in split(text) {
        number += 1;
        if is_blank(part) {
            continue;
        }
        // JSON is YAML, but its own parser is faster and takes several values in a row, as `kubectl` does.
        if part.trim_start().starts_with('{') {
            let values = json(part, line, number);
            number += values.len().saturating_sub(1);
            documents.extend(values);
        } else {
            documents.push(yaml(part, line, number));
        }
    }
    documents
}

/// The same of bytes that may be no text. What is no UTF-8 leaves the documents alone that it is not in.
pub fn parse_bytes(bytes: Vec<u8>) -> Vec<Document> {
    let error = match String::from_utf8(bytes) {
        Ok(text) => return parse(&text),
        Err(error) => error,
    };
    let at = error.utf8_error().valid_up_to();
    let mut documents = parse(&String::from_utf8_lossy(error.as_bytes()));
    let is_marked = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    for document in &mut documents {
        let why = format!("is not UTF-8: byte {at} of the file");
        match &mut document.value {
            Ok(value) if has_text(value, &is_marked) => {
                let error = SyntaxError { line: None, why, looks_like: None };
                document.doubt.get_or_insert(Doubt::Bytes(error));
            }
            Ok(_) => {}
            Err(error) => error.why = format!("{why}; {}", error.why),
        }
    }
    documents
}

/// Whether some text in it, a key or a value, is such.
fn has_text(value: &Value, is_such: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_such(text),
        Value::Array(items) => items.iter().any(|item| has_text(item, is_such)),
        Value::Object(map) => {
            map.iter().any(|(key, value)| is_such(key) || has_text(value, is_such))
        }
        _ => false,
    }
}

/// Parts with the line (from 1) each begins on. `---` at the start of a line always separates: no scalar may contain it
/// (YAML 1.2.2 §9.1.2, c-forbidden), so that finding it needs no parser that a malformed document could lead astray.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut begin, mut begin_line, mut offset) = (0, 1, 0);
    // Before the first `---`, and between `...` and the next one, there is no document unless something is written there.
    let mut optional = true;
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let marker = ["---", "..."].into_iter().find(|marker| line.starts_with(marker));
        if let Some(marker) =
            marker.filter(|_| line.len() == 3 || line[3..].starts_with([' ', '\t', '\r', '\n']))
        {
            let part = &text[begin..offset];
            if !(optional && is_blank(part)) {
                parts.push((begin_line, part));
            }
            optional = marker == "...";
            // What follows `---` on its line belongs to the next document.
            begin = offset + 3;
            begin_line = at + 1;
        }
        offset += line.len();
    }
    if !(optional && is_blank(&text[begin..])) {
        parts.push((begin_line, &text[begin..]));
    }
    parts
}

fn is_blank(part: &str) -> bool {
    part.lines().all(|line| {
        line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%')
    })
}

fn yaml(part: &str, line: usize, number: usize) -> Document {
    let strict = yaml_value(part, line, DuplicateKeyPolicy::Error);
    let error = match strict {
        Ok(value) => return Document { number, value: Ok(value), doubt: None },
        Err(error) => error,
    };
    match yaml_value(part, line, DuplicateKeyPolicy::FirstWins) {
        Ok(value) => Document { number, value: Ok(value), doubt: Some(Doubt::Twice(error)) },
        Err(_) => Document { number, value: Err(error), doubt: None },
    }
}

fn yaml_value(
    part: &str,
    line: usize,
    duplicate_keys: DuplicateKeyPolicy,
) -> Result<Value, SyntaxError> {
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        budget: serde_saphyr::budget! {
            max_events: 2 * MOST_NODES,
            max_nodes: MOST_NODES,
            max_depth: DEEPEST,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MOST_REPLAYED },
        with_snippet: false,
        // YAML 1.2, as PyYAML writes and sigs.k8s.io/yaml reads `namespace: y`: only true and false are booleans.
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(part, options).map_err(|error| {
        let at =
            error.location().map(|location| line + (location.line() as usize).saturating_sub(1));
        SyntaxError { line: at, why: one_line(&error.to_string()), looks_like: looks_like(part) }
    })
}

fn json(part: &str, line: usize, number: usize) -> Vec<Document> {
    let values = serde_json::Deserializer::from_str(part).into_iter::<Value>();
    let mut documents = Vec::new();
    for value in values {
        let value = value.map_err(|error| {
            let why = one_line(&error.to_string());
            SyntaxError {
                line: Some(line + error.line().saturating_sub(1)),
                why,
                looks_like: looks_like(part),
            }
        });
        let failed = value.is_err();
        documents.push(Document { number: number + documents.len(), value, doubt: None });
        if failed {
            break;
        }
    }
    documents
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The identity that the text of a malformed block-style document still shows, so that the last good version of just that
/// object can be kept. A guess is enough: it only counts when such an object was there before.
fn looks_like(part: &str) -> Option<(String, String, String)> {
    let (mut kind, mut namespace, mut name) = (None, None, None);
    let mut in_metadata = None;
    for line in part.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        let value = value
            .split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .trim_matches(['"', '\''])
            .to_owned();
        if indent == 0 {
            in_metadata = (key == "metadata").then_some(None);
            if key == "kind" {
                kind.get_or_insert(value);
            }
        } else if let Some(depth) = &mut in_metadata
            && *depth.get_or_insert(indent) == indent
        {
            match key {
                "name" => _ = name.get_or_insert(value),
                "namespace" => _ = namespace.get_or_insert(value),
                _ => {}
            }
        }
    }
    Some((kind?, namespace.unwrap_or_default(), name?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(text: &str) -> Vec<(usize, Value)> {
        parse(text)
            .into_iter()
            .map(|document| (document.number, document.value.expect("well-formed")))
            .collect()
    }

    #[test]
    fn documents_are_counted_between_separators_and_empty_ones_left_out() {
        let text = "# head\n---\na: 1\n---\n# only a comment\n--- # here\nb: 2\n...\n---\nc: 3\n";
        let found: Vec<_> = values(text).into_iter().map(|(number, _)| number).collect();
        assert_eq!(found, [1, 3, 4]);
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        let found = values("{ }\n---\na: y\nb: n\nc: yes\nd: off\ny: x\ne: true\nf: false\n");
        assert_eq!(
            found[1].1,
            json!({"a": "y", "b": "n", "c": "yes", "d": "off", "y": "x", "e": true, "f": false})
        );
    }

    #[test]
    fn a_separator_inside_a_block_scalar_needs_indentation_to_be_text() {
        let found = values("a: |\n  one\n  ---\n  two\n---\nb: 2\n");
        assert_eq!(found[0].1, json!({"a": "one\n---\ntwo\n"}));
        assert_eq!(found[1].1, json!({"b": 2}));
    }

    #[test]
    fn a_malformed_document_is_named_by_line_and_leaves_the_others() {
        let text = "kind: Service\n---\nkind: Service\nmetadata:\n  name: web # it\n  namespace: shop\nspec: {ports: [\n---\nkind: Pod\n";
        let found = parse(text);
        assert_eq!(found.len(), 3);
        let error = found[1].value.as_ref().unwrap_err();
        assert_eq!(error.looks_like, Some(("Service".into(), "shop".into(), "web".into())));
        assert!(error.line.is_some_and(|line| (2..=8).contains(&line)), "{error:?}");
        assert!(found[0].value.is_ok() && found[2].value.is_ok());
    }

    #[test]
    fn json_files_hold_one_or_several_values() {
        let found = values("{\"kind\": \"A\"}\n{\"kind\": \"B\"}\n");
        assert_eq!(found, [(1, json!({"kind": "A"})), (2, json!({"kind": "B"}))]);
        let found = parse("{\"kind\": \"A\"}\n{\"kind\": ");
        assert!(found[0].value.is_ok() && found[1].value.is_err());
    }

    #[test]
    fn bombs_and_towers_are_refused_quickly() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for at in 1..12 {
            let list = vec![format!("*a{}", at - 1); 10].join(", ");
            bomb += &format!("a{at}: &a{at} [{list}]\n");
        }
        assert!(parse(&bomb)[0].value.is_err());
        for tower in [
            "[".repeat(100_000),
            format!("a: {}", "{a: ".repeat(100_000)),
            "- ".repeat(100_000),
            format!("{{\"a\": {}", "[".repeat(100_000)),
        ] {
            assert!(parse(&tower)[0].value.is_err());
        }
    }

    #[test]
    fn the_byte_order_mark_and_carriage_returns_are_no_content() {
        assert_eq!(values("\u{feff}---\r\na: 1\r\n---\r\nb: 2\r\n").len(), 2);
    }

    #[test]
    fn a_key_that_is_there_twice_is_read_as_the_first_and_said() {
        let found = parse("a: 1\nb: {c: 1, c: 2}\n---\nd: 1\n");
        assert_eq!(found[0].value.as_ref().unwrap(), &json!({"a": 1, "b": {"c": 1}}));
        let Some(Doubt::Twice(error)) = &found[0].doubt else { panic!("{found:?}") };
        assert!(error.line == Some(2) && error.why.contains("duplicate"), "{error:?}");
        assert!(found[1].doubt.is_none());
    }

    #[test]
    fn bytes_that_are_no_text_are_a_fault_of_the_document_that_they_are_in() {
        let bytes = b"a: 1 # \xff\n---\nb: \"x\xfe\"\n---\nc: [\xff\n---\nd: 1\n".to_vec();
        let found = parse_bytes(bytes);
        assert_eq!(found.len(), 4);
        assert!(found[0].doubt.is_none() && found[3].doubt.is_none(), "{found:?}");
        assert_eq!(found[1].value.as_ref().unwrap(), &json!({"b": "x\u{fffd}"}));
        assert!(
            matches!(&found[1].doubt, Some(Doubt::Bytes(error)) if error.why.contains("byte 7"))
        );
        assert!(found[2].value.as_ref().unwrap_err().why.contains("UTF-8"));
    }

    #[test]
    fn anchors_within_reason_work() {
        assert_eq!(values("a: &x {p: 1}\nb: *x\n")[0].1, json!({"a": {"p": 1}, "b": {"p": 1}}));
    }
}
