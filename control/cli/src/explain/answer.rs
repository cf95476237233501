//! What is answered: outcomes merged over the flows of one line, as `explain.md` spells them.

use serde::Serialize;
use serde_json::Value;

/// What became of one flow or, merged, of many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Flows with this outcome.
    pub count: u32,
    /// `transmit`, `reply`, `punt` or `drop`.
    pub verdict: &'static str,
    /// The kind of reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<&'static str>,
    /// The drop reason's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The object that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The service, as `namespace/name:port`.
    pub service: Option<String>,
    /// The backend, as `address:port`.
    pub backend: Option<String>,
    /// The source address written by SNAT.
    pub snat: Option<String>,
    /// Where it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// The gateway, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// Destination as it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Source as it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
}

impl Outcome {
    /// Whether both say the same but for the count and the source port, which counts up.
    fn same(&self, other: &Self) -> bool {
        let address = |s: &Option<String>| {
            s.as_deref().and_then(|s| s.rsplit_once(':')).map(|(a, _)| a.to_owned())
        };
        let bare = |o: &Self| Self { count: 0, src: address(&o.src), ..o.clone() };
        bare(self) == bare(other)
    }
}

/// One thing that a stop said of the first flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The stop's name.
    pub stop: &'static str,
    /// What it decided, in words.
    pub said: String,
}

/// An answer line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// What would happen.
    Outcomes {
        /// The line's id.
        #[serde(skip_serializing_if = "Value::is_null")]
        id: Value,
        /// Merged outcomes, in the order of their first flow.
        outcomes: Vec<Outcome>,
        /// The tables' generation.
        generation: u64,
        /// Policies that had a say.
        policies: Vec<String>,
        /// The first flow's way.
        steps: Vec<Step>,
    },
    /// The line could not be answered.
    Error {
        /// The line's id, null if it could not be read.
        id: Value,
        /// Which field, and why.
        error: String,
    },
}

/// Adds one flow's outcome, merging it into an equal one.
pub fn merge(outcomes: &mut Vec<Outcome>, one: Outcome) {
    match outcomes.iter_mut().find(|o| o.same(&one)) {
        Some(same) => same.count += one.count,
        None => outcomes.push(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(backend: &str, src: &str) -> Outcome {
        Outcome {
            count: 1,
            verdict: "transmit",
            backend: Some(backend.into()),
            src: Some(src.into()),
            ..Outcome::default()
        }
    }

    #[test]
    fn flows_merge_over_their_source_ports_and_nothing_else() {
        let mut outcomes = Vec::new();
        for port in 0..10 {
            let backend = if port % 2 == 0 { "10.0.1.7:8080" } else { "10.0.1.8:8080" };
            merge(&mut outcomes, to(backend, &format!("203.0.113.2:{}", 40000 + port)));
        }
        merge(&mut outcomes, to("10.0.1.7:8080", "203.0.113.3:40000"));
        assert_eq!(outcomes.iter().map(|o| o.count).collect::<Vec<_>>(), [5, 5, 1]);
        assert_eq!(outcomes[0].src.as_deref(), Some("203.0.113.2:40000"));
    }

    #[test]
    fn an_answer_has_the_published_fields() {
        let answer = Answer::Outcomes {
            id: "f1".into(),
            outcomes: vec![to("10.0.1.7:8080", "203.0.113.2:40000")],
            generation: 12,
            policies: vec![],
            steps: vec![Step { stop: "service", said: "no frontend".into() }],
        };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"id":"f1","outcomes":[{"count":1,"verdict":"transmit","service":null,"backend":"10.0.1.7:8080","snat":null,"src":"203.0.113.2:40000"}],"generation":12,"policies":[],"steps":[{"stop":"service","said":"no frontend"}]}"#
        );
        let error = Answer::Error { id: Value::Null, error: "src: is missing".into() };
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"id":null,"error":"src: is missing"}"#
        );
    }
}
