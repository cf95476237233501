//! Labels, and selectors over them.
//!
//! Decides what a label selector says, requirement by requirement, and which of its requirements can't be read: each is refused with
//! its field, and the reader is told ([`Read::whole`]), because what an unreadable requirement means depends on where the selector
//! stands. Semantics and syntax are apimachinery's (`LabelSelectorAsSelector`, `IsQualifiedName`, `IsValidLabelValue`).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::check::{Checker, known};

/// An object's labels, sorted by key.
/// They are shared, because rows are cloned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// As the object has them.
    pub fn of(labels: Option<&BTreeMap<String, String>>) -> Labels {
        let pairs = labels.into_iter().flatten();
        Labels(pairs.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect())
    }

    /// A label's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// What a requirement asks of the label `key`. Values are sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// It is there with one of these values.
    In(Box<str>, Box<[Box<str>]>),
    /// It is absent, or has none of these values.
    NotIn(Box<str>, Box<[Box<str>]>),
    /// It is there.
    Exists(Box<str>),
    /// It is absent.
    DoesNotExist(Box<str>),
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let among = |values: &[Box<str>], value: &str| {
            values.binary_search_by(|other| (**other).cmp(value)).is_ok()
        };
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| among(values, v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !among(values, v)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

/// All requirements hold. Sorted, each once, so that equal selectors are equal; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Box<[Requirement]>);

impl Selector {
    /// Whether the labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether it asks for nothing.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// A label that everything selected has, with its value: what indexes are sorted by.
    pub fn required(&self) -> Option<(&str, &str)> {
        self.0.iter().find_map(|requirement| match requirement {
            Requirement::In(key, values) if values.len() == 1 => Some((&**key, &*values[0])),
            _ => None,
        })
    }
}

/// A selector with what could be read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Of the requirements that can be read: it selects what was meant, or more.
    pub selector: Selector,
    /// Whether all could be read.
    pub whole: bool,
}

/// Reads a LabelSelector. Null is an empty one.
pub fn read(check: &mut Checker<'_>, field: &str, value: &Value) -> Read {
    let mut requirements = Vec::new();
    let whole = match value {
        Value::Null => true,
        Value::Object(map) => {
            let mut whole = known(check, field, map, &["matchLabels", "matchExpressions"]);
            whole &= match_labels(check, field, map.get("matchLabels"), &mut requirements);
            whole &=
                match_expressions(check, field, map.get("matchExpressions"), &mut requirements);
            whole
        }
        _ => {
            check.refuse(field, "must be a label selector: matchLabels, matchExpressions");
            false
        }
    };
    requirements.sort_unstable();
    requirements.dedup();
    Read { selector: Selector(requirements.into()), whole }
}

fn match_labels(
    check: &mut Checker<'_>,
    field: &str,
    value: Option<&Value>,
    requirements: &mut Vec<Requirement>,
) -> bool {
    let field = format!("{field}.matchLabels");
    let labels = match value {
        None | Some(Value::Null) => return true,
        Some(Value::Object(labels)) => labels,
        Some(_) => {
            check.refuse(field, "must be a mapping of labels to values");
            return false;
        }
    };
    let mut whole = true;
    for (key, value) in labels {
        let field = format!("{field}[{}]", shown(key));
        let Value::String(value) = value else {
            check.refuse(field, "is not a string");
            whole = false;
            continue;
        };
        match check_key(key).and_then(|()| check_value(value)) {
            Ok(()) => requirements
                .push(Requirement::In(key.as_str().into(), [value.as_str().into()].into())),
            Err(why) => {
                check.refuse(field, why);
                whole = false;
            }
        }
    }
    whole
}

fn match_expressions(
    check: &mut Checker<'_>,
    field: &str,
    value: Option<&Value>,
    requirements: &mut Vec<Requirement>,
) -> bool {
    let field = format!("{field}.matchExpressions");
    let expressions = match value {
        None | Some(Value::Null) => return true,
        Some(Value::Array(expressions)) => expressions,
        Some(_) => {
            check.refuse(field, "must be a list");
            return false;
        }
    };
    let mut whole = true;
    for (at, expression) in expressions.iter().enumerate() {
        match expression_of(check, &format!("{field}[{at}]"), expression) {
            Some(requirement) => requirements.push(requirement),
            None => whole = false,
        }
    }
    whole
}

fn expression_of(check: &mut Checker<'_>, field: &str, value: &Value) -> Option<Requirement> {
    let Value::Object(map) = value else {
        check.refuse(field, "must be a mapping with key, operator and values");
        return None;
    };
    if !known(check, field, map, &["key", "operator", "values"]) {
        return None;
    }
    let mut refuse = |of: &str, why: String| {
        check.refuse(format!("{field}.{of}"), why);
        None
    };
    let key = match map.get("key") {
        Some(Value::String(key)) => key.as_str(),
        _ => return refuse("key", "is missing or not a string".into()),
    };
    if let Err(why) = check_key(key) {
        return refuse("key", why);
    }
    let listed = match map.get("values") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(listed)) => listed.as_slice(),
        Some(_) => return refuse("values", "must be a list of strings".into()),
    };
    let mut values: Vec<Box<str>> = Vec::new();
    for value in listed {
        match value {
            Value::String(value) => match check_value(value) {
                Ok(()) => values.push(value.as_str().into()),
                Err(why) => return refuse("values", why),
            },
            _ => return refuse("values", "has an item that is not a string".into()),
        }
    }
    values.sort_unstable();
    values.dedup();
    let operator = match map.get("operator") {
        Some(Value::String(operator)) => operator.as_str(),
        _ => return refuse("operator", "is missing or not a string".into()),
    };
    match (operator, values.is_empty()) {
        ("In", false) => Some(Requirement::In(key.into(), values.into())),
        ("NotIn", false) => Some(Requirement::NotIn(key.into(), values.into())),
        ("In" | "NotIn", true) => refuse("values", format!("is empty: {operator} needs a value")),
        ("Exists", true) => Some(Requirement::Exists(key.into())),
        ("DoesNotExist", true) => Some(Requirement::DoesNotExist(key.into())),
        ("Exists" | "DoesNotExist", false) => {
            refuse("values", format!("must be empty: {operator} takes no values"))
        }
        _ => refuse(
            "operator",
            format!("{} is not In, NotIn, Exists or DoesNotExist", shown(operator)),
        ),
    }
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// A qualified name: `[prefix/]name`.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_good = prefix.is_none_or(|prefix| crate::object::check_name(prefix, 253).is_ok());
    if prefix_good && !name.is_empty() && is_label_text(name) {
        return Ok(());
    }
    Err(format!("{} is not a label key: [prefix/]name", shown(key)))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) {
        return Ok(());
    }
    Err(format!(
        "{} is not a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        shown(value)
    ))
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Key, Kind};
    use serde_json::json;

    fn parse(value: Value) -> (Read, Vec<String>) {
        let key = Key { kind: Kind::NetworkPolicy, namespace: "default".into(), name: "p".into() };
        let mut check = Checker::new(&key);
        let read = read(&mut check, "s", &value);
        (read, check.refusals.iter().map(|r| format!("{}: {}", r.field, r.why)).collect())
    }

    fn labels(of: &[(&str, &str)]) -> Labels {
        Labels::of(Some(&of.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()))
    }

    #[test]
    fn all_operators_mean_what_apimachinery_says() {
        let selects = |value: Value, of: &[(&str, &str)]| {
            let (read, refused) = parse(value);
            assert!(read.whole && refused.is_empty(), "{refused:?}");
            read.selector.matches(&labels(of))
        };
        let one = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        assert!(selects(json!({}), &[]) && selects(json!(null), &[("a", "1")]));
        assert!(selects(json!({"matchLabels": {"a": "1"}}), &[("a", "1"), ("b", "2")]));
        assert!(!selects(json!({"matchLabels": {"a": "1", "c": ""}}), &[("a", "1")]));
        assert!(selects(one("In", json!(["2", "1"])), &[("a", "1")]));
        assert!(!selects(one("In", json!(["2", "1"])), &[]));
        assert!(!selects(one("NotIn", json!(["1"])), &[("a", "1")]));
        assert!(selects(one("NotIn", json!(["1"])), &[]));
        assert!(selects(one("Exists", json!(null)), &[("a", "")]));
        assert!(!selects(one("Exists", json!([])), &[("b", "")]));
        assert!(selects(one("DoesNotExist", json!([])), &[("b", "")]));
        assert!(!selects(one("DoesNotExist", json!([])), &[("a", "")]));
    }

    #[test]
    fn a_bad_requirement_is_named_and_the_others_are_read() {
        for (bad, field) in [
            (json!({"key": "a", "operator": "in", "values": ["1"]}), "operator"),
            (json!({"key": "a", "operator": "In"}), "values"),
            (json!({"key": "a", "operator": "In", "values": [1]}), "values"),
            (json!({"key": "a", "operator": "In", "values": "1"}), "values"),
            (json!({"key": "a", "operator": "NotIn", "values": ["b c"]}), "values"),
            (json!({"key": "a", "operator": "Exists", "values": ["1"]}), "values"),
            (json!({"key": "", "operator": "Exists"}), "key"),
            (json!({"key": "A/b", "operator": "Exists"}), "key"),
            (json!({"operator": "Exists"}), "key"),
            (json!({"key": "a"}), "operator"),
            (json!({"key": "a", "operator": "Exists", "vals": []}), "vals"),
        ] {
            let (read, refused) =
                parse(json!({"matchLabels": {"b": "2"}, "matchExpressions": [bad]}));
            assert!(!read.whole && read.selector.matches(&labels(&[("b", "2")])));
            assert!(!read.selector.matches(&labels(&[])));
            assert_eq!(refused.len(), 1);
            assert!(
                refused[0].starts_with(&format!("s.matchExpressions[0].{field}:")),
                "{refused:?}"
            );
        }
        for bad in [
            json!("a=1"),
            json!({"matchlabels": {}}),
            json!({"matchLabels": ["a"]}),
            json!({"matchLabels": {"a": 1}}),
            json!({"matchExpressions": {}}),
        ] {
            let (read, refused) = parse(bad);
            assert!(
                !read.whole && read.selector.is_everything() && refused.len() == 1,
                "{refused:?}"
            );
        }
    }

    #[test]
    fn equal_selectors_are_equal_however_they_are_written() {
        let (a, _) = parse(
            json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "1", "1"]}]}),
        );
        let (b, _) = parse(
            json!({"matchExpressions": [{"key": "b", "operator": "In", "values": ["1", "2"]}, {"key": "a", "operator": "In", "values": ["1"]}]}),
        );
        assert_eq!(a, b);
        assert_eq!(a.selector.required(), Some(("a", "1")));
    }
}
