//! `millrace show services --receipts`: what became of each version of each object, as the control process says.

use std::path::Path;

use millrace_control::serve::ask::ask;
use serde_json::Value;

use super::{NONE, Part, View};

const HEADERS: &[&str] = &["OBJECT", "VERSION", "GENERATION", "APPLIED", "AFTER"];

pub(super) fn view(socket: &Path) -> Result<View, String> {
    let json: Value = serde_json::from_str(&ask(socket, "/receipts")?)
        .map_err(|error| format!("control's receipts: {error}"))?;
    Ok(View { parts: vec![grid(&json)], json })
}

fn grid(json: &Value) -> Part {
    let rows = json.as_array().into_iter().flatten().map(|receipt| {
        let text = |name: &str| receipt.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| receipt.get(name).and_then(Value::as_u64);
        let or_none = |text: &str| if text.is_empty() { NONE.to_owned() } else { text.to_owned() };
        let state = match receipt.get("refused").and_then(Value::as_bool) {
            Some(true) => "no room".to_owned(),
            _ => or_none(text("applied_at")),
        };
        vec![
            format!("{} {}/{}", text("kind"), text("namespace"), text("name")),
            or_none(text("resource_version")),
            number("generation").map_or_else(|| NONE.to_owned(), |number| number.to_string()),
            state,
            number("applied_after_us")
                .map_or_else(|| NONE.to_owned(), |micros| format!("{micros}us")),
        ]
    });
    Part::Grid { headers: HEADERS, rows: rows.collect(), prose: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_receipt_shows_its_version_generation_and_when_it_was_applied() {
        let json = json!([
            {"kind": "Service", "namespace": "shop", "name": "web", "resource_version": "41", "generation": 7, "refused": false,
             "applied": true, "applied_at": "2026-11-21T10:00:00Z", "applied_after_us": 812},
            {"kind": "EndpointSlice", "namespace": "shop", "name": "web-1", "resource_version": "", "generation": 8, "refused": false,
             "applied": false, "applied_at": null, "applied_after_us": null},
            {"kind": "Service", "namespace": "shop", "name": "big", "resource_version": "9", "generation": 8, "refused": true},
            "not a receipt",
        ]);
        let Part::Grid { rows, .. } = grid(&json) else { panic!() };
        assert_eq!(rows[0], ["Service shop/web", "41", "7", "2026-11-21T10:00:00Z", "812us"]);
        assert_eq!(rows[1], ["EndpointSlice shop/web-1", "-", "8", "-", "-"]);
        assert_eq!(rows[2][3], "no room");
        assert_eq!(rows[3][1..], ["-", "-", "-", "-"]);
    }
}
