//! Packets in words for people: one line per packet, hexdumps, differences. Not for the packet path.

use core::fmt::Write;
use core::net::Ipv6Addr;

use crate::ip4::Ip4Packet;
use crate::ip6::{DEFAULT_EXTENSION_LIMIT, Ip6Packet};
use crate::nd::NdMessage;
use crate::tcp::TcpSegment;
use crate::vlan::parse_vlans;
use crate::{
    ArpOperation, ArpPacket, EtherType, Icmp4Header, Icmp4Type, Icmp6Header, Icmp6Type, IpProtocol,
    UdpHeader, ip4,
};

/// One line about a frame, from its Ethernet header on.
///
/// ```
/// use wire::{builder::eth, describe::describe, MacAddr};
///
/// let frame = eth(MacAddr::local(1), MacAddr::local(2)).ip4([10, 0, 0, 1], [10, 0, 0, 2]).icmp4_echo(1, 2).build();
/// assert_eq!(
///     describe(&frame),
///     "02:00:00:00:00:01 > 02:00:00:00:00:02 IPv4 10.0.0.1 > 10.0.0.2 ttl 64 ICMP echo request id 1 seq 2 len 28"
/// );
/// ```
pub fn describe(frame: &[u8]) -> String {
    let mut line = Line::default();
    line.frame(frame);
    line.text
}

/// One line about a packet, from its IP header on.
pub fn describe_l3(packet: &[u8]) -> String {
    let mut line = Line::default();
    line.ip(packet, 0);
    line.text
}

/// The bytes in rows of 16: offset, hexadecimal, printable characters. Every row ends in a line feed.
pub fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        hexdump_row(&mut text, row * 16, chunk);
    }
    text
}

/// What differs between two frames (from the Ethernet header on): both in words, and the rows of their
/// hexdumps that are not equal, `-` for the expected and `+` for the other. Empty if they are equal.
///
/// ```
/// use wire::describe::diff;
///
/// assert_eq!(diff(b"same", b"same"), "");
/// assert!(diff(b"one", b"two").contains("- 0000  6f 6e 65"));
/// ```
pub fn diff(expected: &[u8], got: &[u8]) -> String {
    diff_with(expected, got, describe)
}

/// As [`diff`], for packets from the IP header on.
pub fn diff_l3(expected: &[u8], got: &[u8]) -> String {
    diff_with(expected, got, describe_l3)
}

/// Panics with the [`diff`] of two frames unless they are equal: an assertion for tests.
///
/// # Panics
/// If the frames differ.
#[track_caller]
pub fn assert_same_frame(expected: &[u8], got: &[u8]) {
    let difference = diff(expected, got);
    assert!(difference.is_empty(), "frames differ\n{difference}");
}

fn diff_with(expected: &[u8], got: &[u8], describe: fn(&[u8]) -> String) -> String {
    if expected == got {
        return String::new();
    }
    let mut text = format!(
        "expected: {} ({} bytes)\n     got: {} ({} bytes)\n",
        describe(expected),
        expected.len(),
        describe(got),
        got.len()
    );
    let rows = expected.len().max(got.len()).div_ceil(16);
    for at in (0..rows).map(|row| row * 16) {
        let row = |bytes| <[u8]>::get(bytes, at..).map(|rest| &rest[..rest.len().min(16)]);
        let (old, new) = (row(expected), row(got));
        if old == new {
            continue;
        }
        for (sign, chunk) in [('-', old), ('+', new)] {
            if let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) {
                let _ = write!(text, "{sign} ");
                hexdump_row(&mut text, at, chunk);
            }
        }
    }
    text
}

fn hexdump_row(text: &mut String, offset: usize, chunk: &[u8]) {
    let _ = write!(text, "{offset:04x} ");
    for column in 0..16 {
        if column == 8 {
            text.push(' ');
        }
        match chunk.get(column) {
            Some(byte) => {
                let _ = write!(text, " {byte:02x}");
            }
            None => text.push_str("   "),
        }
    }
    text.push_str("  ");
    text.extend(chunk.iter().map(|&byte| {
        if matches!(byte, 0x20..=0x7e) {
            char::from(byte)
        } else {
            '.'
        }
    }));
    text.push('\n');
}

/// How many IP headers inside each other are written out: tunnels and quoted packets.
const MAX_NESTING: u8 = 3;

/// Words with single spaces between them.
#[derive(Default)]
struct Line {
    text: String,
}

impl Line {
    fn add(&mut self, words: core::fmt::Arguments<'_>) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        let _ = self.text.write_fmt(words);
    }

    fn frame(&mut self, frame: &[u8]) {
        let tagged = match parse_vlans(frame) {
            Ok(tagged) => tagged,
            Err(error) => {
                return self.add(format_args!(
                    "malformed Ethernet ({error}) len {}",
                    frame.len()
                ));
            }
        };
        self.add(format_args!(
            "{} > {}",
            tagged.ethernet.src, tagged.ethernet.dst
        ));
        for tag in [tagged.outer, tagged.inner].into_iter().flatten() {
            self.add(format_args!("vlan {}", tag.vid()));
            if tag.pcp() != 0 {
                self.add(format_args!("prio {}", tag.pcp()));
            }
        }
        match tagged.ethertype {
            EtherType::ARP => self.arp(tagged.rest),
            EtherType::IP4 | EtherType::IP6 => {
                let version = tagged.rest.first().map(|byte| byte >> 4);
                let announced = if tagged.ethertype == EtherType::IP4 {
                    4
                } else {
                    6
                };
                if version.is_some_and(|version| version != announced) {
                    self.add(format_args!("EtherType {} but", tagged.ethertype));
                }
                self.ip(tagged.rest, 0);
            }
            other => self.add(format_args!("EtherType {other} len {}", tagged.rest.len())),
        }
    }

    fn arp(&mut self, bytes: &[u8]) {
        let arp = match ArpPacket::parse(bytes) {
            Ok((arp, _)) => arp,
            Err(error) => return self.add(format_args!("malformed ARP ({error})")),
        };
        let (sender, target) = (arp.sender_ip(), arp.target_ip());
        match arp.operation {
            ArpOperation::REQUEST => {
                self.add(format_args!(
                    "ARP who has {target}, tell {sender} at {}",
                    arp.sender_mac
                ));
            }
            ArpOperation::REPLY => {
                self.add(format_args!("ARP {sender} is at {}", arp.sender_mac));
            }
            other => self.add(format_args!("ARP operation {}", other.value())),
        }
    }

    fn ip(&mut self, bytes: &[u8], nesting: u8) {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => self.ip4(bytes, nesting),
            Some(6) => self.ip6(bytes, nesting),
            Some(version) => {
                self.add(format_args!(
                    "malformed IP (version {version}) len {}",
                    bytes.len()
                ));
            }
            None => self.add(format_args!("empty packet")),
        }
    }

    fn ip4(&mut self, bytes: &[u8], nesting: u8) {
        // A quoted packet is cut short: decode what is there and say so.
        let (header, rest) = match crate::Ip4Header::parse(bytes) {
            Ok(parts) => parts,
            Err(error) => {
                return self.add(format_args!("malformed IPv4 ({error}) len {}", bytes.len()));
            }
        };
        self.add(format_args!(
            "IPv4 {} > {} ttl {}",
            header.source(),
            header.destination(),
            header.ttl
        ));
        if header.tos != 0 {
            self.add(format_args!("tos 0x{:02x}", header.tos));
        }
        if header.header_len() > 20 {
            self.add(format_args!("options {}", header.header_len() - 20));
        }
        if header.is_fragment() {
            let more = if header.more_fragments() { "+" } else { "" };
            let offset = header.fragment_offset_bytes();
            self.add(format_args!(
                "fragment id {} offset {offset}{more}",
                header.id
            ));
        }
        let payload = Ip4Packet::parse(bytes).map_or(rest, |packet| packet.payload);
        if header.is_later_fragment() {
            self.add(format_args!("{}", header.protocol));
        } else {
            let payload = Payload {
                bytes: payload,
                addresses4: true,
            };
            self.upper(header.protocol, payload, nesting);
        }
        self.add(format_args!("len {}", header.total_length));
        match ip4::validate(bytes) {
            Ok(_) => {}
            Err(error) if nesting == 0 => self.add(format_args!("({error})")),
            Err(_) => {}
        }
    }

    fn ip6(&mut self, bytes: &[u8], nesting: u8) {
        let (header, rest) = match crate::Ip6Header::parse(bytes) {
            Ok(parts) => parts,
            Err(error) => {
                return self.add(format_args!("malformed IPv6 ({error}) len {}", bytes.len()));
            }
        };
        self.add(format_args!(
            "IPv6 {} > {} hlim {}",
            header.source(),
            header.destination(),
            header.hop_limit
        ));
        if header.traffic_class() != 0 {
            self.add(format_args!("class 0x{:02x}", header.traffic_class()));
        }
        let parsed = Ip6Packet::parse(bytes);
        let payload = parsed.map_or(rest, |packet| packet.payload);
        let chain =
            crate::ip6::walk_extensions(header.next_header, payload, DEFAULT_EXTENSION_LIMIT);
        if chain.extensions > 0 {
            self.add(format_args!("extensions {}", chain.extensions));
        }
        if let Some((fragment, _)) = chain.fragment {
            let more = if fragment.more_fragments() { "+" } else { "" };
            let offset = fragment.offset_bytes();
            self.add(format_args!(
                "fragment id {} offset {offset}{more}",
                fragment.id
            ));
        }
        match chain.fault {
            Some(fault) => {
                self.add(format_args!(
                    "malformed {} header ({fault})",
                    chain.protocol
                ));
            }
            None if chain.is_later_fragment() => self.add(format_args!("{}", chain.protocol)),
            None => {
                let bytes = payload.get(chain.offset..).unwrap_or_default();
                self.upper(
                    chain.protocol,
                    Payload {
                        bytes,
                        addresses4: false,
                    },
                    nesting,
                );
            }
        }
        self.add(format_args!(
            "len {}",
            usize::from(header.payload_length.get()) + 40
        ));
        if let (Err(_), 0) = (parsed, nesting) {
            self.add(format_args!("({})", crate::Ip6Error::Truncated));
        }
    }

    fn upper(&mut self, protocol: IpProtocol, payload: Payload<'_>, nesting: u8) {
        let bytes = payload.bytes;
        match protocol {
            IpProtocol::UDP => match UdpHeader::parse(bytes) {
                Ok((udp, _)) => {
                    self.add(format_args!("UDP {} > {}", udp.src_port, udp.dst_port));
                }
                Err(error) => self.cut("UDP", bytes, error),
            },
            IpProtocol::TCP => match TcpSegment::parse(bytes) {
                Ok(segment) => self.tcp(&segment),
                Err(error) => self.cut("TCP", bytes, error),
            },
            IpProtocol::ICMP4 if payload.addresses4 => self.icmp4(bytes, nesting),
            IpProtocol::ICMP6 if !payload.addresses4 => self.icmp6(bytes, nesting),
            IpProtocol::IP4 | IpProtocol::IP6 if nesting < MAX_NESTING => {
                self.text.push_str(" {");
                let mut inner = Self::default();
                inner.ip(bytes, nesting + 1);
                let _ = write!(self.text, "{}}}", inner.text);
            }
            IpProtocol::ESP => match bytes.first_chunk::<8>() {
                Some(&[a, b, c, d, e, f, g, h]) => {
                    let spi = u32::from_be_bytes([a, b, c, d]);
                    let sequence = u32::from_be_bytes([e, f, g, h]);
                    self.add(format_args!("ESP spi 0x{spi:08x} seq {sequence}"));
                }
                None => self.add(format_args!("malformed ESP")),
            },
            other => self.add(format_args!("{other}")),
        }
    }

    /// A transport header that does not parse, perhaps because an error message quotes only its start.
    fn cut(&mut self, name: &str, bytes: &[u8], error: crate::ParseError) {
        match bytes.first_chunk::<4>() {
            Some(&[a, b, c, d]) => {
                let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                self.add(format_args!("{name} {from} > {to} ({error})"));
            }
            None => self.add(format_args!("malformed {name} ({error})")),
        }
    }

    fn tcp(&mut self, segment: &TcpSegment<'_>) {
        let tcp = segment.header;
        self.add(format_args!(
            "TCP {} > {} [{}] seq {}",
            tcp.src_port, tcp.dst_port, tcp.flags, tcp.seq
        ));
        if tcp.flags.contains(crate::TcpFlags::ACK) {
            self.add(format_args!("ack {}", tcp.ack));
        }
        self.add(format_args!("win {}", tcp.window));
    }

    fn icmp4(&mut self, bytes: &[u8], nesting: u8) {
        let (icmp, rest) = match Icmp4Header::parse(bytes) {
            Ok(parts) => parts,
            Err(error) => return self.add(format_args!("malformed ICMP ({error})")),
        };
        self.add(format_args!("ICMP {}", icmp.icmp_type));
        match icmp.icmp_type {
            kind if kind.is_query() => {
                self.add(format_args!("id {} seq {}", icmp.id(), icmp.sequence()));
            }
            Icmp4Type::DESTINATION_UNREACHABLE
                if icmp.code == crate::icmp4::unreachable::FRAGMENTATION_NEEDED =>
            {
                self.add(format_args!("code {} mtu {}", icmp.code, icmp.mtu()));
            }
            Icmp4Type::REDIRECT => {
                self.add(format_args!("code {} to {}", icmp.code, icmp.gateway()))
            }
            _ => self.add(format_args!("code {}", icmp.code)),
        }
        if icmp.icmp_type.is_error() {
            self.quote(rest, nesting);
        }
    }

    fn icmp6(&mut self, bytes: &[u8], nesting: u8) {
        let (icmp, rest) = match Icmp6Header::parse(bytes) {
            Ok(parts) => parts,
            Err(error) => return self.add(format_args!("malformed ICMPv6 ({error})")),
        };
        self.add(format_args!("ICMPv6 {}", icmp.icmp_type));
        if icmp.icmp_type.is_query() {
            return self.add(format_args!("id {} seq {}", icmp.id(), icmp.sequence()));
        }
        if icmp.icmp_type.is_neighbour_discovery() {
            return self.neighbour_discovery(bytes);
        }
        match icmp.icmp_type {
            Icmp6Type::PACKET_TOO_BIG => self.add(format_args!("mtu {}", icmp.mtu())),
            _ => self.add(format_args!("code {}", icmp.code)),
        }
        if icmp.icmp_type.is_error() {
            self.quote(rest, nesting);
        }
    }

    fn neighbour_discovery(&mut self, bytes: &[u8]) {
        let message = match NdMessage::parse(bytes) {
            Ok(message) => message,
            Err(error) => return self.add(format_args!("malformed ({error})")),
        };
        let target = match &message {
            NdMessage::NeighbourSolicitation(message, _) => Some(message.target),
            NdMessage::NeighbourAdvertisement(message, _) => Some(message.target),
            NdMessage::Redirect(message, _) => Some(message.target),
            NdMessage::RouterSolicitation(..) | NdMessage::RouterAdvertisement(..) => None,
        };
        if let Some(target) = target {
            self.add(format_args!("target {}", Ipv6Addr::from_octets(target)));
        }
        if let Some(mac) = message.source_link_layer() {
            self.add(format_args!("from {mac}"));
        }
        if let Some(mac) = message.target_link_layer() {
            self.add(format_args!("at {mac}"));
        }
        if let Err(error) = message.options().validate() {
            self.add(format_args!("({error})"));
        }
    }

    /// The packet that an error message is about.
    fn quote(&mut self, bytes: &[u8], nesting: u8) {
        if bytes.is_empty() || nesting >= MAX_NESTING {
            return;
        }
        self.text.push_str(" about {");
        let mut inner = Self::default();
        inner.ip(bytes, nesting + 1);
        let _ = write!(self.text, "{}}}", inner.text);
    }
}

/// The payload of an IP packet.
struct Payload<'a> {
    bytes: &'a [u8],
    /// Whether the packet is IPv4.
    addresses4: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{eth, ip4, ip6};
    use crate::{MacAddr, TcpFlags};
    use core::net::Ipv4Addr;

    const A: MacAddr = MacAddr::local(1);
    const B: MacAddr = MacAddr::local(2);
    const IP_A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const IP_B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn frames() {
        let macs = "02:00:00:00:00:01 > 02:00:00:00:00:02";
        let frame = eth(A, B)
            .vlan(10)
            .ip4(IP_A, IP_B)
            .icmp4_echo(1, 2)
            .payload(&[0; 56])
            .build();
        assert_eq!(
            describe(&frame),
            format!(
                "{macs} vlan 10 IPv4 10.0.0.1 > 10.0.0.2 ttl 64 ICMP echo request id 1 seq 2 len 84"
            )
        );
        let frame = eth(A, B).qinq(100, 10).arp_request(IP_A, IP_B).build();
        assert_eq!(
            describe(&frame),
            format!(
                "{macs} vlan 100 vlan 10 ARP who has 10.0.0.2, tell 10.0.0.1 at 02:00:00:00:00:01"
            )
        );
        let frame = eth(A, B).arp_reply(IP_A, IP_B).build();
        assert_eq!(
            describe(&frame),
            format!("{macs} ARP 10.0.0.1 is at 02:00:00:00:00:01")
        );
        let frame = eth(A, B).raw(0x88cc, b"1234").build();
        assert_eq!(describe(&frame), format!("{macs} EtherType LLDP len 4"));
        let frame = eth(A, B).ip4(IP_A, IP_B).version(6).build();
        assert!(describe(&frame).contains("EtherType IPv4 but malformed IPv6"));
    }

    #[test]
    fn ip4_packets() {
        let packet = ip4(IP_A, IP_B)
            .tos(4)
            .tcp(1, 80)
            .seq(5)
            .flags(TcpFlags::SYN)
            .build();
        assert_eq!(
            describe_l3(&packet),
            "IPv4 10.0.0.1 > 10.0.0.2 ttl 64 tos 0x04 TCP 1 > 80 [S] seq 5 win 65535 len 40"
        );
        let packet = ip4(IP_A, IP_B)
            .id(7)
            .fragment_offset(2)
            .more_fragments()
            .raw(17, &[0; 8])
            .build();
        assert_eq!(
            describe_l3(&packet),
            "IPv4 10.0.0.1 > 10.0.0.2 ttl 64 fragment id 7 offset 16+ UDP len 28"
        );
        let error = ip4(IP_B, IP_A)
            .icmp4_error(11, 0, 0, &ip4(IP_A, IP_B).ttl(0).udp(1, 2).build()[..28])
            .build();
        assert_eq!(
            describe_l3(&error),
            "IPv4 10.0.0.2 > 10.0.0.1 ttl 64 ICMP time exceeded code 0 about {IPv4 10.0.0.1 > 10.0.0.2 ttl 0 UDP 1 > 2 len 28} len 56"
        );
        let bad = ip4(IP_A, IP_B).checksum(1).udp(1, 2).build();
        assert!(describe_l3(&bad).ends_with("(IPv4 header checksum does not match)"));
    }

    #[test]
    fn ip6_packets() {
        let packet = ip6(v6("fe80::1"), v6("ff02::1:ff00:9"))
            .neighbour_solicitation(v6("fe80::9"), Some(A))
            .build();
        assert_eq!(
            describe_l3(&packet),
            "IPv6 fe80::1 > ff02::1:ff00:9 hlim 255 ICMPv6 neighbour solicitation target fe80::9 from 02:00:00:00:00:01 len 72"
        );
        let packet = ip6(v6("::1"), v6("::2"))
            .hop_by_hop(&[])
            .fragment(9, 0, true)
            .udp(1, 2)
            .build();
        assert_eq!(
            describe_l3(&packet),
            "IPv6 ::1 > ::2 hlim 64 extensions 2 fragment id 9 offset 0+ UDP 1 > 2 len 64"
        );
        let packet = ip6(v6("::1"), v6("::2"))
            .ip4(IP_A, IP_B)
            .raw(50, &[0, 0, 0, 1, 0, 0, 0, 2])
            .build();
        assert_eq!(
            describe_l3(&packet),
            "IPv6 ::1 > ::2 hlim 64 {IPv4 10.0.0.1 > 10.0.0.2 ttl 64 ESP spi 0x00000001 seq 2 len 28} len 68"
        );
    }

    #[test]
    fn differences() {
        let expected = eth(A, B).ip4(IP_A, IP_B).udp(1, 2).build();
        let got = eth(A, B).ip4(IP_A, IP_B).ttl(63).udp(1, 2).build();
        let text = diff(&expected, &got);
        assert!(text.contains("ttl 64") && text.contains("ttl 63"), "{text}");
        let changed: Vec<_> = text.lines().filter(|l| l.starts_with(['-', '+'])).collect();
        assert_eq!(changed.len(), 2, "{text}");
        assert!(changed[0].starts_with("- 0010  00 1c"), "{text}");
        assert_eq!(diff(&got, &got), "");
        assert!(diff_l3(&got[14..], &expected[14..]).starts_with("expected: IPv4"));
        assert!(diff(&got, &[]).contains("got: malformed Ethernet"));
    }

    #[test]
    #[should_panic(expected = "frames differ")]
    fn assertion_fails_on_a_difference() {
        assert_same_frame(b"a", b"b");
    }

    #[test]
    fn dump() {
        assert_eq!(
            hexdump(b"0123456789abcdef\0"),
            concat!(
                "0000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  0123456789abcdef\n",
                "0010  00                                                .\n"
            )
        );
    }
}
