//! Messages as the kernel writes them; what is unknown or cut short in them.

use super::*;
use proptest::prelude::*;

/// A body: its fixed part, and attributes behind it.
struct Body(Vec<u8>);

impl Body {
    fn new(fixed: &[u8]) -> Body {
        Body(fixed.to_vec())
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Body {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Body {
        self.with(kind, &value.to_ne_bytes())
    }

    /// What a newer kernel might say.
    fn strange(self) -> Body {
        self.with(0x7ff, &[0xff; 7]).with(0x8000 | 0x123, &[1, 2, 3]).with(0, &[])
    }
}

fn link_body(family: u8, index: u32, flags: u32) -> Body {
    let mut fixed = vec![family, 0, 1, 0];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(flags.to_ne_bytes());
    fixed.extend([0; 4]);
    Body::new(&fixed)
}

#[test]
fn a_device() {
    let body = link_body(0, 7, 0x1_0043)
        .strange()
        .with(3, b"eth0\0")
        .with(1, &[2, 0, 0, 0, 0, 9])
        .number(4, 1450)
        .with(18, &Body::new(&[]).with(1, b"veth\0").strange().0);
    let wanted = Link {
        name: "eth0".into(),
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        mtu: 1450,
        up: true,
        running: true,
        loopback: false,
        shared: true,
        kind: "veth".into(),
    };
    assert_eq!(link(&body.0), Some((7, wanted.clone())));
    // Without a carrier; a tunnel, whose address is no MAC.
    let (_, down) = link(&link_body(0, 7, 0x43).0).unwrap();
    assert!(down.up && !down.running);
    let (_, tunnel) = link(&link_body(0, 8, 0x1_00c1 | 0x10).with(1, &[192, 0, 2, 1]).0).unwrap();
    assert!(tunnel.running && !tunnel.shared && tunnel.mac.is_none());
    assert_eq!(link(&link_body(7, 7, 1).0), None, "a bridge's port");
    assert_eq!(link(&body.0[..10]), None);
}

#[test]
fn addresses() {
    let fixed = |family, length, flags| Body::new(&[family, length, flags, 0, 3, 0, 0, 0]);
    let of =
        |body: Body| address(&body.0).map(|it| (it.net.to_string(), it.link, it.usable, it.lesser));
    let some = |net: &str, usable, lesser| Some((net.to_owned(), 3, usable, lesser));
    // The far end of a point-to-point link is not ours.
    let body = fixed(2, 32, 0x80).with(1, &[10, 0, 0, 2]).with(2, &[10, 0, 0, 1]).strange();
    assert_eq!(of(body), some("10.0.0.1/32", true, false));
    let v6: Ipv6Addr = "2001:db8::2".parse().unwrap();
    let body = |flags| fixed(10, 64, 0).with(1, &v6.octets()).number(8, flags);
    assert_eq!(of(body(0x80)), some("2001:db8::2/64", true, false));
    assert_eq!(of(body(0xc0)), some("2001:db8::2/64", false, false));
    assert_eq!(of(body(0xc4)), some("2001:db8::2/64", true, false), "optimistic");
    assert_eq!(of(body(0x88)), some("2001:db8::2/64", false, false));
    assert_eq!(of(body(0x20)), some("2001:db8::2/64", true, true));
    assert_eq!(of(fixed(2, 24, 1).with(2, &[10, 0, 0, 1])), some("10.0.0.1/24", true, true));
    assert_eq!(of(fixed(2, 24, 0)), None);
    assert_eq!(of(fixed(2, 33, 0).with(2, &[10, 0, 0, 1])), None);
    assert_eq!(of(fixed(2, 24, 0).with(2, &[10, 0, 0])), None);
    assert_eq!(of(fixed(28, 24, 0).with(2, &[10, 0, 0, 1])), None);
}

fn route_body(length: u8, table: u8, protocol: u8, kind: u8, flags: u32) -> Body {
    let mut fixed = vec![2, length, 0, 0, table, protocol, 0, kind];
    fixed.extend(flags.to_ne_bytes());
    Body::new(&fixed)
}

fn hop(link: u32, weight: u16) -> Hop {
    Hop { link, weight, ..NOWHERE }
}

#[test]
fn a_route_with_one_way() {
    let body = route_body(24, 254, 3, 1, 0)
        .number(15, 254)
        .with(1, &[10, 9, 8, 0])
        .number(6, 50)
        .with(5, &[192, 0, 2, 1])
        .number(4, 2)
        .strange();
    let gateway = Some("192.0.2.1".parse().unwrap());
    assert_eq!(
        route(&body.0),
        Some(Route {
            table: Table::Main,
            prefix: "10.9.8.0/24".parse().unwrap(),
            metric: 50,
            preference: 0,
            action: Action::Forward(vec![Hop { gateway, ..hop(2, 1) }]),
        })
    );
    // Through a gateway of the other family; dead; something around the packet.
    let v6: Ipv6Addr = "fe80::1".parse().unwrap();
    let via = [&10u16.to_ne_bytes()[..], &v6.octets()].concat();
    let body = route_body(0, 254, 3, 1, 16).with(18, &via).number(4, 2).with(21, &[1, 0]);
    let wanted = Hop { gateway: Some(v6.into()), dead: true, encapsulated: true, ..hop(2, 1) };
    let default = route(&body.0).unwrap();
    assert_eq!(
        (default.prefix.to_string().as_str(), default.action),
        ("0.0.0.0/0", Action::Forward(vec![wanted]))
    );
}

#[test]
fn a_route_with_several_ways() {
    let one = |flags: u8, hops: u8, link: u32, attributes: Body| {
        let mut bytes = (8 + attributes.0.len() as u16).to_ne_bytes().to_vec();
        bytes.extend([flags, hops]);
        bytes.extend(link.to_ne_bytes());
        bytes.extend(attributes.0);
        bytes
    };
    let several = [
        one(0, 1, 2, Body::new(&[]).with(5, &[192, 0, 2, 1]).strange()),
        one(1, 255, 3, Body::new(&[])),
    ];
    let body = route_body(16, 0, 3, 1, 0)
        .number(15, 254)
        .with(1, &[10, 9, 0, 0])
        .with(9, &several.concat());
    let gateway = Some("192.0.2.1".parse().unwrap());
    let wanted = vec![Hop { gateway, ..hop(2, 2) }, Hop { dead: true, ..hop(3, 256) }];
    assert_eq!(route(&body.0).unwrap().action, Action::Forward(wanted));
}

#[test]
fn other_routes() {
    let of = |body: Body| route(&body.0).map(|route| (route.table, route.action));
    let kind = |table, kind| of(route_body(32, table, 2, kind, 0).with(1, &[10, 0, 0, 1]));
    assert_eq!(kind(255, 2), Some((Table::Local, Action::Local)));
    assert_eq!(kind(255, 3), Some((Table::Local, Action::Broadcast)));
    assert_eq!(kind(254, 6), Some((Table::Main, Action::Blackhole)));
    for unreachable in 7..=9 {
        assert_eq!(kind(254, unreachable), Some((Table::Main, Action::Unreachable)));
    }
    for none in [0, 4, 5, 10, 77] {
        assert_eq!(kind(254, none), None, "{none}");
    }
    assert_eq!(kind(100, 1), None);
    let wide = route_body(32, 254, 2, 1, 0).with(1, &[10, 0, 0, 1]);
    assert_eq!(of(wide.number(15, 7700)), None, "the table's whole number");
    assert_eq!(of(route_body(0, 254, trunk::PROTOCOL, 1, 0)), None, "the engine's own");
    assert_eq!(of(route_body(0, 254, 3, 1, 0x200)), None, "cached");
    assert_eq!(of(route_body(0, 254, 3, 1, 0).number(3, 7)), None, "from one device");
    assert_eq!(of(route_body(33, 254, 3, 1, 0)), None);
    let mut tos = route_body(0, 254, 3, 1, 0);
    tos.0[3] = 8;
    assert_eq!(of(tos), None);
    let mut source = route_body(0, 254, 3, 1, 0);
    source.0[2] = 64;
    assert_eq!(of(source), None);
}

#[test]
fn neighbors() {
    let of = |state: u16, flags: u8, addr: &[u8], mac: Option<[u8; 6]>| {
        let mut fixed = vec![if addr.len() == 4 { 2 } else { 10 }, 0, 0, 0, 2, 0, 0, 0];
        fixed.extend(state.to_ne_bytes());
        fixed.extend([flags, 1]);
        let body = Body::new(&fixed).with(1, addr).strange();
        let body = match mac {
            Some(mac) => body.with(2, &mac),
            None => body,
        };
        neighbor(&body.0).map(|((link, addr), standing)| {
            assert_eq!(link, 2);
            (addr.to_string(), standing)
        })
    };
    let (v4, mac) = ([192, 0, 2, 1], [2, 0, 0, 0, 0, 1]);
    let is = |standing| Some(("192.0.2.1".to_owned(), standing));
    for known in [0x02, 0x08, 0x10, 0x40, 0x80] {
        assert_eq!(of(known, 0, &v4, Some(mac)), is(Standing::Known(Mac(mac))), "{known}");
    }
    assert_eq!(of(0x04, 0, &v4, Some(mac)), is(Standing::Stale(Mac(mac))));
    for unknown in [0x00, 0x01, 0x20] {
        assert_eq!(of(unknown, 0, &v4, Some(mac)), is(Standing::Unknown), "{unknown}");
    }
    assert_eq!(of(0x02, 0, &v4, None), is(Standing::Unknown));
    assert_eq!(of(0x40, 0, &v4, Some([1, 0, 0x5e, 0, 0, 1])), is(Standing::Unknown));
    assert_eq!(of(0x80, 8, &v4, Some(mac)), None, "a proxy's");
    assert_eq!(of(0x40, 0, &[224, 0, 0, 1], Some(mac)), None);
    assert_eq!(of(0x40, 0, &[0xff; 16], Some(mac)), None);
}

#[test]
fn rules() {
    let body = |from: u8, table: u8, action: u8| {
        Body::new(&[2, 0, from, 0, table, 0, 0, action, 0, 0, 0, 0])
    };
    for (priority, table) in [(0, 255), (32_766, 254), (32_767, 253)] {
        let usual = body(0, table, 1).number(6, priority).number(15, table.into()).strange();
        // Zeros of conditions that are not asked for.
        assert_eq!(rule(&usual.with(19, &[0]).number(10, 0).0), None);
    }
    let from =
        rule(&body(24, 0, 1).number(6, 100).number(15, 7).with(2, &[10, 0, 0, 0]).0).unwrap();
    let wanted = Rule {
        priority: 100,
        from: Some("10.0.0.0/24".parse().unwrap()),
        table: 7,
        conditional: false,
        v4: true,
    };
    assert_eq!(from, wanted);
    let inverted =
        Body::new(&[2, 0, 24, 0, 7, 0, 0, 1, 2, 0, 0, 0]).number(6, 100).with(2, &[10, 0, 0, 0]);
    let inverted = rule(&inverted.0).unwrap();
    assert_eq!((inverted.from, inverted.conditional), (None, true));
    assert!(rule(&body(0, 7, 1).number(6, 100).number(10, 0x40).0).unwrap().conditional);
    assert_eq!(rule(&body(0, 0, 6).number(6, 100).0).unwrap().table, 0);
    assert_eq!(rule(&body(0, 7, 1).number(6, 100).with(21, &[trunk::PROTOCOL]).0), None);
}

fn all(body: &[u8]) {
    let _ = (link(body), address(body), route(body), neighbor(body), rule(body));
}

proptest! {
    #[test]
    fn any_bytes_are_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        all(&bytes);
    }

    /// Nearer to the truth: a valid head, and attributes whose numbers and lengths matter.
    #[test]
    fn any_attributes_are_something_or_nothing(
        head in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 10, 24, 32, 64, 254, 255]), 16),
        items in prop::collection::vec((0u16..40, prop::collection::vec(any::<u8>(), 0..24)), 0..6),
        cut in 0usize..100,
    ) {
        for fixed in [8, 12, 16] {
            let body = items.iter().fold(Body::new(&head[..fixed]), |body, (kind, value)| body.with(*kind, value));
            let length = body.0.len().saturating_sub(cut % (body.0.len() + 1));
            all(&body.0);
            all(&body.0[..length]);
        }
    }
}
