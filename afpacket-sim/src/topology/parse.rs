//! The text format of a topology.

use std::str::{FromStr, SplitWhitespace};

use super::{
    Attachment, DEFAULT_DEVICE, Device, Host, HostInterface, Port, Prefix, Router, SubInterface,
    Tag, Topology,
};
use crate::SimError;

impl FromStr for Topology {
    type Err = SimError;

    /// Parses and validates the text format of [this module](crate::topology).
    fn from_str(text: &str) -> Result<Self, SimError> {
        let mut topology = Self::default();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default();
            let mut words = Words(content.split_whitespace());
            topology
                .add_line(&mut words)
                .map_err(|message| SimError::Line {
                    line: index + 1,
                    message,
                })?;
        }
        topology.validate()?;
        Ok(topology)
    }
}

impl Topology {
    fn add_line(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        match words.0.next() {
            None => Ok(()),
            Some("router") => self.add_router(words),
            Some("port") => self.add_port(words),
            Some("sub") => self.add_sub_interface(words),
            Some("host") => self.add_host(words),
            Some(other) => Err(format!(
                "`{other}` starts no line; expected router, port, sub or host"
            )),
        }
    }

    fn add_router(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.name("a router's name")?;
        if let Some(word) = words.0.next() {
            return Err(format!(
                "`{word}` is one word too many after the router's name"
            ));
        }
        if let Some(router) = &self.router {
            return Err(format!("there is a router already, `{}`", router.name));
        }
        self.router = Some(Router {
            name,
            ports: Vec::new(),
        });
        Ok(())
    }

    fn add_port(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let router = self
            .router
            .as_mut()
            .ok_or("a port needs a `router` line before it")?;
        let name = words.name("a port's name")?;
        let mut port = Port {
            name,
            addresses: Vec::new(),
            device: Device::default(),
            sub_interfaces: Vec::new(),
        };
        while let Some(word) = words.0.next() {
            if !words.device(word, &mut port.device)? {
                port.addresses
                    .push(words.address(word, "mtu, queues, mac or neighbour")?);
            }
        }
        router.ports.push(port);
        Ok(())
    }

    fn add_sub_interface(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.name("the name of a port")?;
        let ports = self.router.as_mut().map(|router| &mut router.ports);
        let port = ports
            .and_then(|ports| ports.iter_mut().find(|port| port.name == name))
            .ok_or_else(|| format!("there is no port `{name}` before this line"))?;
        let (mut tag, mut addresses) = (TagWords::default(), Vec::new());
        while let Some(word) = words.0.next() {
            if !words.tag(word, &mut tag)? {
                addresses.push(words.address(word, "vlan or outer")?);
            }
        }
        let tag = tag.finish()?.ok_or("a sub-interface needs `vlan N`")?;
        port.sub_interfaces.push(SubInterface { tag, addresses });
        Ok(())
    }

    fn add_host(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let host = words.name("a host's name")?;
        let (mut name, mut attachment) = (None, None);
        let mut tag = TagWords::default();
        let mut device = Device::default();
        let (mut addresses, mut gateways, mut routes) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(word) = words.0.next() {
            match word {
                "dev" => once(&mut name, "dev", words.name("a device name after `dev`")?)?,
                "to" => {
                    let port = Attachment::Port(words.name("a port's name after `to`")?);
                    once(&mut attachment, "to or wire", port)?;
                }
                "wire" => {
                    let wire = Attachment::Wire(words.name("a wire's name after `wire`")?);
                    once(&mut attachment, "to or wire", wire)?;
                }
                "via" => gateways.push(words.value("a gateway's address after `via`")?),
                "route" => {
                    let prefix = words.prefix("a prefix after `route`")?;
                    if words.0.next() != Some("via") {
                        return Err("expected `via GATEWAY` after the prefix of a route".to_owned());
                    }
                    routes.push((prefix, words.value("a gateway's address after `via`")?));
                }
                _ if words.tag(word, &mut tag)? || words.device(word, &mut device)? => {}
                _ => addresses.push(words.address(
                    word,
                    "dev, to, wire, vlan, outer, via, route, mtu, queues, mac or neighbour",
                )?),
            }
        }
        let interface = HostInterface {
            name: name.unwrap_or_else(|| DEFAULT_DEVICE.to_owned()),
            attachment: attachment.ok_or("an interface needs `to PORT` or `wire NAME`")?,
            tag: tag.finish()?,
            addresses,
            gateways,
            routes,
            device,
        };
        match self.hosts.iter_mut().find(|known| known.name == host) {
            Some(known) => known.interfaces.push(interface),
            None => self.hosts.push(Host {
                name: host,
                interfaces: vec![interface],
            }),
        }
        Ok(())
    }
}

/// The words of one line that are left.
struct Words<'a>(SplitWhitespace<'a>);

#[derive(Default)]
struct TagWords {
    vlan: Option<u16>,
    outer: Option<u16>,
}

impl TagWords {
    fn finish(self) -> Result<Option<Tag>, String> {
        match (self.vlan, self.outer) {
            (Some(vlan), outer) => Ok(Some(Tag { vlan, outer })),
            (None, Some(_)) => Err("`outer` needs `vlan` too".to_owned()),
            (None, None) => Ok(None),
        }
    }
}

impl Words<'_> {
    fn name(&mut self, expected: &str) -> Result<String, String> {
        self.0
            .next()
            .map(str::to_owned)
            .ok_or_else(|| format!("expected {expected}"))
    }

    fn value<T: FromStr>(&mut self, expected: &str) -> Result<T, String> {
        let word = self
            .0
            .next()
            .ok_or_else(|| format!("expected {expected}"))?;
        word.parse()
            .map_err(|_| format!("`{word}`: expected {expected}"))
    }

    fn prefix(&mut self, expected: &str) -> Result<Prefix, String> {
        self.0
            .next()
            .ok_or_else(|| format!("expected {expected}"))?
            .parse()
    }

    /// A word that is none of the line's `keywords` has to be an address.
    fn address(&self, word: &str, keywords: &str) -> Result<Prefix, String> {
        if word.contains('/') {
            return word.parse();
        }
        Err(format!("`{word}`: expected ADDRESS/LENGTH, {keywords}"))
    }

    /// Takes the words of a VLAN; false when `word` is none of them.
    fn tag(&mut self, word: &str, tag: &mut TagWords) -> Result<bool, String> {
        match word {
            "vlan" => once(&mut tag.vlan, "vlan", self.value("a VLAN id after `vlan`")?)?,
            "outer" => once(
                &mut tag.outer,
                "outer",
                self.value("a VLAN id after `outer`")?,
            )?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes the words of a device's settings; false when `word` is none of them.
    fn device(&mut self, word: &str, device: &mut Device) -> Result<bool, String> {
        match word {
            "mtu" => device.mtu = self.value("bytes after `mtu`")?,
            "queues" => device.queues = self.value("a number after `queues`")?,
            "mac" => device.mac = Some(self.value("an Ethernet address after `mac`")?),
            "neighbour" => {
                let ip = self.value("an address after `neighbour`")?;
                let mac = self.value("the Ethernet address of the neighbour")?;
                device.neighbours.push((ip, mac));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn once<T>(slot: &mut Option<T>, word: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("`{word}` is given twice")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::Topology;
    use crate::topology::{Attachment, Tag, demo};

    #[test]
    fn the_demo_is_valid_and_round_trips() {
        let demo = demo();
        assert_eq!(demo.hosts.len(), 3);
        assert_eq!(demo.ports().len(), 3);
        assert_eq!(
            demo.ports()[2].sub_interfaces[0].tag,
            Tag {
                vlan: 10,
                outer: None
            }
        );
        assert_eq!(
            demo.to_string().parse::<Topology>().expect("its own text"),
            demo
        );
    }

    #[test]
    fn every_word_is_read() {
        let text = "
            router gw
            port p0 198.18.1.1/24 mtu 9000 queues 4 mac 02:00:00:00:00:aa neighbour 198.18.1.2 02:00:00:00:00:bb
            sub p0 vlan 7 outer 100 198.18.7.1/24
            host a dev eth1 to p0 vlan 7 outer 100 198.18.7.2/24 route 198.18.9.0/24 via 198.18.7.1
            host a wire w 2001:db8::1/64   # a second interface
            host b wire w 2001:db8::2/64 via 2001:db8::1
        ";
        let topology: Topology = text.parse().expect("a valid topology");
        let port = &topology.ports()[0];
        assert_eq!((port.device.mtu, port.device.queues), (9000, 4));
        assert_eq!(port.device.neighbours.len(), 1);
        let a = topology.host("a").expect("it is there");
        assert_eq!(
            a.interfaces[0].tag,
            Some(Tag {
                vlan: 7,
                outer: Some(100)
            })
        );
        assert_eq!(a.interfaces[0].routes[0].0.to_string(), "198.18.9.0/24");
        assert_eq!(a.interfaces[1].name, "eth0");
        assert_eq!(a.interfaces[1].attachment, Attachment::Wire("w".to_owned()));
        assert_eq!(
            topology
                .to_string()
                .parse::<Topology>()
                .expect("its own text"),
            topology
        );
    }

    #[test]
    fn errors_name_line_and_cause() {
        let message = |text: &str| text.parse::<Topology>().expect_err(text).to_string();
        let gateway = "router g\nport p0\nhost a to p0 ";
        for (text, expected) in [
            ("\nhots a", "line 2: `hots` starts no line"),
            ("port p0", "needs a `router` line"),
            ("router g\nrouter h", "there is a router already, `g`"),
            ("router g x", "one word too many"),
            ("host a 198.18.1.1/24", "needs `to PORT` or `wire NAME`"),
            ("host a to", "expected a port's name"),
            ("host a to p9", "port `p9`, which the router does not have"),
            ("host a wire w", "wire `w` has 1 end(s)"),
            ("router g\nport p0", "no host is on port `p0`"),
            ("host a wire w wire v", "given twice"),
            (
                &format!("{gateway} vlan 5000"),
                "VLAN id 5000 is out of range",
            ),
            (&format!("{gateway} vlan 0"), "VLAN id 0 is out of range"),
            (&format!("{gateway} outer 3"), "`outer` needs `vlan`"),
            (&format!("{gateway} mtu 67"), "mtu 67 is out of range 68"),
            (
                &format!("{gateway} 2001:db8::1/64 mtu 1279"),
                "mtu 1279 is out of range 1280",
            ),
            (&format!("{gateway} queues 0"), "0 queues"),
            (&format!("{gateway} 198.18.1.1/33"), "at most 32"),
            (&format!("{gateway} 198.18.1.1"), "expected ADDRESS/LENGTH"),
            (
                &format!("{gateway} 198.18.1.2/24 via 198.18.2.1"),
                "on none of its subnets",
            ),
            (&format!("{gateway} mac 01:00:00:00:00:01"), "group address"),
            (
                &format!("{gateway}\nhost a to p0 dev eth1"),
                "more than one host",
            ),
            (
                &format!("{gateway}\nhost g wire w\nhost b wire w"),
                "are named `g`",
            ),
            (&format!("{gateway} dev averyveryverylongname"), "1 to 15"),
            (&format!("{gateway} dev lo"), "loopback"),
            (
                "host a wire w 198.18.1.1/24\nhost b wire w 198.18.1.1/24",
                "address 198.18.1.1 is given twice",
            ),
        ] {
            let message = message(text);
            assert!(
                message.contains(expected),
                "{text:?} gave {message:?}, not {expected:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
            let _ = text.parse::<Topology>();
        }

        #[test]
        fn words_in_any_order_round_trip_or_are_refused(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "router", "port", "sub", "host", "to", "wire", "via", "route", "mtu", "vlan", "outer", "dev",
                    "mac", "queues", "neighbour", "gw", "p0", "a", "b", "w", "10", "1400", "0", "70000",
                    "198.18.1.1/24", "198.18.1.2/24", "198.18.1.1", "2001:db8::1/64", "2001:db8::2",
                    "02:00:00:00:00:01", "\n", "\n", "#", "\nhost a wire w", "\nhost b wire w",
                ]),
                0..40,
            )
        ) {
            if let Ok(topology) = words.join(" ").parse::<Topology>() {
                prop_assert_eq!(topology.to_string().parse::<Topology>().expect("its own text"), topology);
            }
        }
    }
}
