//! Workers: what each thread says about itself, and which generation of the tables it uses.

use millrace_dataplane::clock;
use serde_json::json;

use super::{Part, View, or_none, seconds};
use crate::live::Engine;

pub(super) fn view(engine: &Engine) -> View {
    let workers = engine.state.workers();
    // After the workers' lines, so that no packet is from the future.
    let now = clock::now();
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for info in workers {
        let started = info.started != 0;
        let thread = started.then_some(info.thread);
        let generation = engine.generation(info.worker);
        let last = (info.last_packets != 0).then(|| seconds(now.saturating_sub(info.last_packets)));
        values.push(json!({
            "worker": info.worker, "cpu": info.cpu, "thread": thread, "turns": info.turns,
            "idle_turns": info.idle_turns, "packets": info.packets, "sleeps": info.sleeps,
            "generation": generation, "last_packets_ago": last,
        }));
        rows.push(vec![
            info.worker.to_string(),
            or_none(info.cpu),
            or_none(thread),
            info.turns.to_string(),
            info.idle_turns.to_string(),
            info.packets.to_string(),
            info.sleeps.to_string(),
            match generation {
                Some(generation) => generation.to_string(),
                None if started => "asleep".to_owned(),
                None => "not started".to_owned(),
            },
            last.map_or_else(|| "never".to_owned(), |last| format!("{last} ago")),
        ]);
    }
    let headers = &[
        "WORKER",
        "CPU",
        "THREAD",
        "TURNS",
        "IDLE TURNS",
        "PACKETS",
        "SLEEPS",
        "GENERATION",
        "LAST PACKETS",
    ];
    View { parts: vec![Part::Grid { headers, rows, prose: false }], json: values.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::Fixture;
    use millrace_dataplane::clock::SECOND;

    #[test]
    fn a_worker_shows_its_turns_and_the_generation_that_it_uses() {
        let fixture = Fixture::new();
        let counters = fixture.segment.counters(0).unwrap();
        let line = counters.worker();
        let before = clock::now().saturating_sub(90 * SECOND);
        line.started(Some(3), 4711, before);
        line.turn(5, before);
        line.turn(0, before);
        line.slept();
        let mut epoch = fixture.segment.slots().reader(0).unwrap();
        let generation = epoch.enter(&fixture.engine.tables).generation();
        let shown = view(&fixture.engine);
        assert_eq!(
            shown.json[0],
            json!({"worker": 0, "cpu": 3, "thread": 4711, "turns": 2, "idle_turns": 1, "packets": 5, "sleeps": 1,
                "generation": generation, "last_packets_ago": "1m30s"})
        );
        assert!(shown.text().lines().nth(1).is_some_and(|line| line.ends_with("1m30s ago")));

        epoch.idle();
        let shown = view(&fixture.engine);
        assert_eq!(shown.json[0]["generation"], json!(null));
        let text = shown.text();
        assert!(text.contains("asleep") && text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn a_worker_that_has_not_started_says_nothing_false() {
        let shown = view(&Fixture::new().engine);
        let second = &shown.json[1];
        for key in ["cpu", "thread", "generation", "last_packets_ago"] {
            assert_eq!(second[key], json!(null), "{key}");
        }
        assert!(
            shown
                .text()
                .lines()
                .nth(2)
                .is_some_and(|line| line.contains("not started") && line.ends_with("never"))
        );
    }
}
