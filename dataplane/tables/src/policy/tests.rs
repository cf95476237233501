//! What a judgement touches, at the sizes that the cost model is about.

use crate::{
    ByPolicies, ClassId, DecisionId, DecisionSpec, EndpointSpec, Judgements, PolicyId, PortMapId,
    PortMapSpec, Readers, SegmentConfig, SubjectId, Writer, words::touched,
};
use millrace_wire::Addr;

fn addr(n: u32) -> Addr {
    Addr::from_v4((0x0a01_0000 + n).to_be_bytes())
}

/// Pods that are subjects of their own, each with a port map and a decision for the class of its neighbor.
fn world(pods: u32) -> Writer {
    let config = SegmentConfig { bytes: 64 << 20, seed: Some(1), ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).unwrap();
    writer.set_readers(Readers::Nobody);
    for n in 0..pods {
        let endpoint = EndpointSpec {
            class: ClassId(n + 1),
            ingress: Some(SubjectId(n)),
            ..EndpointSpec::default()
        };
        writer.set_policy_endpoint(addr(n).to_ip().into(), &endpoint).unwrap();
        let by = ByPolicies { policies: vec![PolicyId(n)], rule: Some(1) };
        writer
            .set_decision(DecisionId(n), &DecisionSpec { allow: true, by, shadow: None })
            .unwrap();
        let mut map = PortMapSpec::all(DecisionId(pods));
        map.tcp = vec![(0, DecisionId(pods)), (80, DecisionId(n)), (81, DecisionId(pods))];
        writer.set_port_map(PortMapId(n), &map).unwrap();
        writer.set_subject(SubjectId(n), PortMapId(pods)).unwrap();
        let cell = (ClassId((n + 1) % pods + 1), Some(PortMapId(n)));
        writer.set_cells(SubjectId(n), &[cell]).unwrap();
    }
    writer.publish().unwrap();
    writer
}

#[test]
fn a_judgement_touches_a_bounded_number_of_lines_at_any_size() {
    let lines = [4, 50, 5_000].map(|pods| {
        let writer = world(pods);
        let tables = writer.tables();
        let snapshot = tables.snapshot();
        let (mut most, mut sum) = (0, 0);
        for n in 0..pods {
            let (allowed, lines) = touched::by(|| {
                let peer = snapshot.policy_endpoint(&addr((n + 1) % pods));
                let subject = snapshot.policy_endpoint(&addr(n)).ingress().unwrap();
                snapshot.judge(subject, peer.class, 6, 80).is_allowed()
            });
            assert!(allowed);
            most = most.max(lines.len());
            sum += lines.len();
        }
        println!(
            "{pods} pods: {most} lines at most, {:.2} on average",
            sum as f64 / f64::from(pods)
        );
        (most, sum as f64 / f64::from(pods))
    });
    // The ways of both addresses through the FIB (of which the upper levels are one), the record, and two or three for each row. Small tables
    // have rows that share lines.
    assert!(lines.iter().all(|(most, _)| *most <= 22), "{lines:?}");
    assert!(lines[2].1 - lines[1].1 < 3.5, "{lines:?}");
}

#[test]
fn what_a_judgement_reads_was_asked_for_before_or_stays_near() {
    const PODS: u32 = 5_000;
    let writer = world(PODS);
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let mut all = Judgements::with_room(1);
    let (mut near, mut far) = (Vec::new(), 0);
    for n in 0..PODS {
        let mut decided = Vec::new();
        let mut read = Vec::new();
        let asked = touched::ahead(|| {
            read = touched::by(|| {
                all.clear();
                all.ask([addr((n + 1) % PODS), addr(n)], 6, 80);
                snapshot.judge_all(&mut all, |policy| decided.push(policy));
            })
            .1;
        });
        assert_eq!(decided, [PolicyId(n)]);
        assert!(all.get(0).unwrap().decisions[1].unwrap().is_allowed());
        far += asked.len();
        near.extend(read.into_iter().filter(|line| !asked.contains(line)));
    }
    near.sort_unstable();
    near.dedup();
    println!("{:.2} lines asked for, {} near", far as f64 / f64::from(PODS), near.len());
    // The record, the upper levels of the FIB, and the tops of the rows: 2 KiB for each table of 8,192.
    assert!(near.len() < 250, "{} lines were waited for", near.len());
    // Two nodes of the FIB and a row of each end; subject, slot, node, port map, decision.
    assert!(far <= 11 * PODS as usize, "{far} lines");
}
