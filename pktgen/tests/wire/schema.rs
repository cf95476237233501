//! Checks a report against the published JSON Schema: the keywords that it uses, and no others.

use serde_json::Value;

const KNOWN: [&str; 14] = [
    "$schema",
    "title",
    "description",
    "type",
    "properties",
    "required",
    "items",
    "$ref",
    "anyOf",
    "oneOf",
    "const",
    "format",
    "minimum",
    "$defs",
];

/// Panics unless the schema allows the report.
pub fn check(report: &Value) {
    let schema: Value = serde_json::from_str(millrace_pktgen::report::JSON_SCHEMA).unwrap();
    walk(&schema, &schema, report, "report").unwrap_or_else(|why| panic!("{why}: {report:#}"));
}

fn walk(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (keyword, said) in schema.as_object().ok_or("a schema is an object")? {
        if !KNOWN.contains(&keyword.as_str()) {
            return Err(format!("{at}: the check doesn't know {keyword}"));
        }
        allows(root, keyword, said, value, at)?;
    }
    let (Some(fields), Some(properties)) = (value.as_object(), schema.get("properties")) else {
        return Ok(());
    };
    for (name, field) in fields {
        let property =
            properties.get(name).ok_or_else(|| format!("{at}: {name} is not in the schema"))?;
        walk(root, property, field, &format!("{at}.{name}"))?;
    }
    Ok(())
}

fn allows(
    root: &Value,
    keyword: &str,
    said: &Value,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    let list = said.as_array().map(Vec::as_slice).unwrap_or(std::slice::from_ref(said));
    let holds = match keyword {
        "$ref" => {
            let path =
                said.as_str().and_then(|s| s.strip_prefix('#')).ok_or("a reference is local")?;
            let schema = root.pointer(path).ok_or_else(|| format!("{path} is not there"))?;
            return walk(root, schema, value, at);
        }
        "anyOf" | "oneOf" => {
            let fits = list.iter().filter(|choice| walk(root, choice, value, at).is_ok()).count();
            fits == 1 || (fits > 1 && keyword == "anyOf")
        }
        "const" => said == value,
        "type" => list.iter().any(|kind| match kind.as_str().unwrap_or("") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => false,
        }),
        "minimum" => value.as_f64() >= said.as_f64(),
        "required" => {
            list.iter().all(|name| name.as_str().is_some_and(|name| value.get(name).is_some()))
        }
        "items" => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                walk(root, said, item, &format!("{at}[{index}]"))?;
            }
            true
        }
        _ => true,
    };
    if holds { Ok(()) } else { Err(format!("{at}: {value} against {keyword} {said}")) }
}
