//! What is asked: one flow as typed on the command line, or as one JSON line.
//!
//! A line is hostile until [`Flow::parse`] has checked it; its errors name the field.

use millrace_wire::Protocol;
use serde::Deserialize;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// The most new flows that one line may ask for.
pub const MAX_COUNT: u32 = 1_000_000;

/// Where a packet enters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Not said: at the pod that owns the source address, or at the first uplink.
    Source,
    /// An uplink: the first, or the one named.
    Uplink(Option<String>),
    /// The node's own stack.
    Host,
    /// A pod on this node, as `namespace/name`.
    Pod(String),
    /// An interface by name.
    Interface(String),
}

/// TCP flags that a flow line can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// What a TCP flow begins with.
    pub const SYN: Self = Self(0x02);
    /// What a TCP server answers with.
    pub const SYN_ACK: Self = Self(0x12);
    const NAMES: [(&'static str, u8); 6] =
        [("FIN", 0x01), ("SYN", 0x02), ("RST", 0x04), ("PSH", 0x08), ("ACK", 0x10), ("URG", 0x20)];

    /// Reads `SYN`, `SYN,ACK` or `SYN+ACK`.
    fn parse(text: &str) -> Result<Self, String> {
        let mut flags = 0;
        for word in text.split([',', '+', '|', ' ']).filter(|w| !w.is_empty()) {
            let name = word.to_ascii_uppercase();
            let Some((_, bit)) = Self::NAMES.iter().find(|(n, _)| *n == name) else {
                return Err(format!("flags: \"{word}\" is none of FIN, SYN, RST, PSH, ACK, URG"));
            };
            flags |= bit;
        }
        if flags == 0 { Err("flags: is empty".into()) } else { Ok(Self(flags)) }
    }
}

/// One flow, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Comes back in the answer, whatever JSON it was.
    pub id: Value,
    /// Where it enters.
    pub from: From,
    /// Source address.
    pub src: IpAddr,
    /// Source port of the first flow; the ICMP echo identifier for ICMP.
    pub sport: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// How many flows, the source port counting up.
    pub count: u32,
    /// TCP flags.
    pub flags: Flags,
}

/// A line of a flow file or a script's `flow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A packet of a flow.
    Forward(Flow),
    /// The backend's answer to the flow of that id.
    Reverse {
        /// Comes back in the answer.
        id: Value,
        /// TCP flags of the answer.
        flags: Option<Flags>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Value,
    from: Option<String>,
    src: Option<String>,
    sport: Option<u32>,
    dst: Option<String>,
    dport: Option<u32>,
    protocol: Option<String>,
    count: Option<u64>,
    flags: Option<String>,
    #[serde(default)]
    reverse: bool,
}

/// A line that can't be used; the answer carries the id if it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line's id, or null.
    pub id: Value,
    /// Which field, and why.
    pub error: String,
}

impl Ask {
    /// Checks one JSON line.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| BadLine { id: Value::Null, error: format!("not JSON: {e}") })?;
        Self::from_value(value)
    }

    /// Checks one JSON value.
    pub fn from_value(value: Value) -> Result<Self, BadLine> {
        let id = value.get("id").cloned().unwrap_or(Value::Null);
        let line: Line = serde_path_to_error::deserialize(value).map_err(|e| {
            let field = e.path().to_string();
            let error = match field.as_str() {
                "." => e.inner().to_string(),
                field => format!("{field}: {}", e.inner()),
            };
            BadLine { id: id.clone(), error }
        })?;
        check(line).map_err(|error| BadLine { id, error })
    }
}

fn check(line: Line) -> Result<Ask, String> {
    let flags = line.flags.as_deref().map(Flags::parse).transpose()?;
    if line.reverse {
        return Ok(Ask::Reverse { id: line.id, flags });
    }
    let protocol = protocol(line.protocol.as_deref().ok_or("protocol: is missing")?)?;
    let src = address("src", line.src.as_deref())?;
    let dst = address("dst", line.dst.as_deref())?;
    if src.is_ipv4() != dst.is_ipv4() {
        return Err("src and dst: one is IPv4, the other IPv6".into());
    }
    if (protocol == Protocol::ICMP && src.is_ipv6())
        || (protocol == Protocol::ICMPV6 && src.is_ipv4())
    {
        return Err(format!("protocol: {} does not go with {src}", name(protocol)));
    }
    let has_ports = protocol != Protocol::ICMP && protocol != Protocol::ICMPV6;
    let sport = port("sport", line.sport, has_ports)?;
    let dport = port("dport", line.dport, has_ports)?;
    let count = line.count.unwrap_or(1);
    if count == 0 || count > u64::from(MAX_COUNT) {
        return Err(format!("count: {count} is not between 1 and {MAX_COUNT}"));
    }
    Ok(Ask::Forward(Flow {
        id: line.id,
        from: from(line.from.as_deref())?,
        src,
        sport,
        dst,
        dport,
        protocol,
        count: u32::try_from(count).unwrap_or(MAX_COUNT),
        flags: flags.unwrap_or(Flags::SYN),
    }))
}

/// Reads the flow of a command line: `tcp 203.0.113.2:40000 172.30.0.41:80 --from uplink`.
pub fn from_words(
    protocol_word: &str,
    src: &str,
    dst: &str,
    from_word: Option<&str>,
) -> Result<Flow, String> {
    let protocol = protocol(protocol_word)?;
    let (src, sport) = endpoint("source", src)?;
    let (dst, dport) = endpoint("destination", dst)?;
    let line = Line {
        id: Value::Null,
        from: from_word.map(str::to_owned),
        src: Some(src),
        sport,
        dst: Some(dst),
        dport,
        protocol: Some(name(protocol).to_owned()),
        count: None,
        flags: None,
        reverse: false,
    };
    match check(line)? {
        Ask::Forward(flow) => Ok(flow),
        Ask::Reverse { .. } => Err("reverse: only in a script".into()),
    }
}

fn endpoint(what: &str, text: &str) -> Result<(String, Option<u32>), String> {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Ok((both.ip().to_string(), Some(u32::from(both.port()))));
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok((ip.to_string(), None)),
        Err(_) => {
            Err(format!("{what}: \"{text}\": write ADDRESS:PORT, or [ADDRESS]:PORT for IPv6"))
        }
    }
}

fn address(field: &str, text: Option<&str>) -> Result<IpAddr, String> {
    let text = text.ok_or_else(|| format!("{field}: is missing"))?;
    let addr: IpAddr =
        text.parse().map_err(|_| format!("{field}: \"{text}\" is not an IP address"))?;
    match addr {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{field}: {text}: write an IPv4 address as itself"))
        }
        addr => Ok(addr),
    }
}

fn port(field: &str, value: Option<u32>, needed: bool) -> Result<u16, String> {
    match value {
        None if needed => Err(format!("{field}: is missing")),
        None => Ok(0),
        Some(0) if needed => Err(format!("{field}: 0 is not a port")),
        Some(port) => u16::try_from(port).map_err(|_| format!("{field}: {port} is over 65535")),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::TCP),
        "udp" => Ok(Protocol::UDP),
        "sctp" => Ok(Protocol::SCTP),
        "icmp" => Ok(Protocol::ICMP),
        "icmpv6" => Ok(Protocol::ICMPV6),
        _ => Err(format!("protocol: \"{text}\" is none of TCP, UDP, SCTP, ICMP, ICMPv6")),
    }
}

/// A protocol's name as Kubernetes and the answers spell it.
pub fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "TCP",
        Protocol::UDP => "UDP",
        Protocol::SCTP => "SCTP",
        Protocol::ICMP => "ICMP",
        Protocol::ICMPV6 => "ICMPv6",
        _ => "other",
    }
}

fn from(text: Option<&str>) -> Result<From, String> {
    let Some(text) = text else { return Ok(From::Source) };
    match text.split_once(':') {
        None if text == "uplink" => Ok(From::Uplink(None)),
        None if text == "host" => Ok(From::Host),
        Some(("uplink", name)) if !name.is_empty() => Ok(From::Uplink(Some(name.into()))),
        Some(("interface", name)) if !name.is_empty() => Ok(From::Interface(name.into())),
        Some(("pod", name))
            if name.split_once('/').is_some_and(|(ns, pod)| !ns.is_empty() && !pod.is_empty()) =>
        {
            Ok(From::Pod(name.into()))
        }
        _ => Err(format!(
            "from: \"{text}\": write uplink, uplink:NAME, host, pod:NAMESPACE/NAME or interface:NAME"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_flow_with_its_defaults() {
        let text = r#"{"id":"f1","from":"uplink","src":"203.0.113.2","sport":40000,"dst":"172.30.0.41","dport":80,"protocol":"TCP"}"#;
        let Ok(Ask::Forward(flow)) = Ask::parse(text) else { panic!() };
        assert_eq!((flow.count, flow.flags, flow.from), (1, Flags::SYN, From::Uplink(None)));
        assert_eq!(flow.id, "f1");
    }

    #[test]
    fn icmp_needs_no_ports() {
        let text = r#"{"src":"fd00::1","dst":"fd00::2","protocol":"ICMPv6"}"#;
        assert!(matches!(Ask::parse(text), Ok(Ask::Forward(f)) if f.protocol == Protocol::ICMPV6));
    }

    #[test]
    fn a_bad_line_names_its_field_and_keeps_its_id() {
        let cases = [
            (r#"{"id":1,"src":"10.0.0.1","sport":1,"dst":"10.0.0.2","dport":1}"#, "protocol"),
            (
                r#"{"id":1,"src":"10.0.0.01","sport":1,"dst":"10.0.0.2","dport":1,"protocol":"TCP"}"#,
                "src",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":0,"dst":"10.0.0.2","dport":1,"protocol":"TCP"}"#,
                "sport",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":1,"dst":"10.0.0.2","dport":70000,"protocol":"TCP"}"#,
                "dport",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":1,"dst":"fd00::2","dport":7,"protocol":"TCP"}"#,
                "IPv6",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":1,"dst":"10.0.0.2","dport":7,"protocol":"TCP","count":0}"#,
                "count",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":1,"dst":"10.0.0.2","dport":7,"protocol":"TCP","from":"pod:x"}"#,
                "from",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":1,"dst":"10.0.0.2","dport":7,"protocol":"TCP","flags":"BIG"}"#,
                "flags",
            ),
            (
                r#"{"id":1,"src":"10.0.0.1","sport":"1","dst":"10.0.0.2","dport":7,"protocol":"TCP"}"#,
                "sport: ",
            ),
            (r#"{"id":1,"port":1}"#, "port"),
        ];
        for (text, needle) in cases {
            let bad = Ask::parse(text).unwrap_err();
            assert_eq!(bad.id, 1, "{text}");
            assert!(bad.error.contains(needle), "{text} answered {}", bad.error);
        }
        assert_eq!(Ask::parse("{").unwrap_err().id, Value::Null);
    }

    #[test]
    fn a_command_line_reads_like_a_line() {
        let flow =
            from_words("tcp", "[fd00::1]:4000", "[fd00::2]:80", Some("pod:default/web-0")).unwrap();
        assert_eq!(
            (flow.sport, flow.dport, flow.from),
            (4000, 80, From::Pod("default/web-0".into()))
        );
        assert!(from_words("tcp", "10.0.0.1", "10.0.0.2:80", None).unwrap_err().contains("sport"));
    }
}
