//! A rule as one family sees it: prefix lists and port lists are sets of integers.

use super::{
    classes::SetClasses,
    key::{Address, Key, Layer4, PORT_PROTOCOLS},
    rule::{Icmp, PortRange, Prefix, Protocols, Rule, SetId, Side},
    spans::{Span, contains, subtract, union},
};

/// What a rule demands of packets of one family.
#[derive(Clone, Debug)]
pub(super) struct Lowered<A> {
    pub source: LoweredSide<A>,
    pub destination: LoweredSide<A>,
    /// Narrowed to the protocols that can meet the criteria on ports and ICMP.
    pub protocols: Protocols,
    /// (type << 8 | code); `None` without criteria on ICMP.
    pub icmp: Option<Vec<Span<u16>>>,
    /// Whether only packets with ports match.
    pub needs_ports: bool,
    pub services: Vec<SetId>,
}

#[derive(Clone, Debug)]
pub(super) struct LoweredSide<A> {
    pub addresses: Vec<Span<A>>,
    pub all_of: Vec<SetId>,
    pub none_of: Vec<SetId>,
    pub ports: Ports,
}

/// A port passes if it is in `accepted` or its class in one of `accepted_sets`, and if it is in none of
/// `refused` and its class in none of `refused_sets`.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub accepted: Vec<Span<u16>>,
    pub accepted_sets: Vec<SetId>,
    pub refused: Vec<Span<u16>>,
    pub refused_sets: Vec<SetId>,
}

impl<A: Address> Lowered<A> {
    /// `None` if no packet of this family can match.
    pub fn new(rule: &Rule) -> Option<Self> {
        if rule.family.is_some_and(|family| family != A::FAMILY) {
            return None;
        }
        let needs_ports = rule.source.has_port_criteria()
            || rule.destination.has_port_criteria()
            || !rule.services.is_empty();
        let icmp = icmp_spans(rule.icmp, rule.not_icmp);
        let mut protocols = rule.protocols;
        if needs_ports {
            let ported = PORT_PROTOCOLS.into_iter();
            protocols = ported
                .filter(|&protocol| protocols.contains(protocol))
                .collect();
        }
        if icmp.is_some() {
            let possible = protocols.contains(A::ICMP);
            protocols = if possible {
                Protocols::only(A::ICMP)
            } else {
                Protocols::NONE
            };
        }
        let impossible = protocols.is_empty() || icmp.as_ref().is_some_and(Vec::is_empty);
        (!impossible).then_some(())?;
        Some(Self {
            source: LoweredSide::new(&rule.source)?,
            destination: LoweredSide::new(&rule.destination)?,
            protocols,
            icmp,
            needs_ports,
            services: rule.services.clone(),
        })
    }

    /// Whether any criterion refers to a set.
    pub fn uses_sets(&self) -> bool {
        let side = |side: &LoweredSide<A>| {
            !(side.all_of.is_empty()
                && side.none_of.is_empty()
                && side.ports.accepted_sets.is_empty()
                && side.ports.refused_sets.is_empty())
        };
        side(&self.source) || side(&self.destination) || !self.services.is_empty()
    }

    /// Whether nothing but the addresses themselves decides.
    pub fn looks_at_addresses_only(&self) -> bool {
        let any_protocol = self.protocols.len() == 256;
        any_protocol && !self.uses_sets() && !self.needs_ports && self.icmp.is_none()
    }

    /// As [`Rule::matches`].
    pub fn matches(&self, key: &Key<A>, sets: &SetClasses) -> bool {
        let sides = [
            (
                &self.source,
                key.source,
                key.source_class,
                key.source_port,
                key.source_port_class,
            ),
            (
                &self.destination,
                key.destination,
                key.destination_class,
                key.destination_port,
                key.destination_port_class,
            ),
        ];
        let in_services = |&set: &SetId| sets.ip_ports.contains(key.destination_port_class, set);
        self.protocols.contains(key.protocol)
            && (!self.needs_ports || key.layer4 == Layer4::Ports)
            && sides
                .into_iter()
                .all(|(side, address, class, port, port_class)| {
                    contains(&side.addresses, address)
                        && side.class_matches(class, sets)
                        && (!self.needs_ports || side.ports.matches(port, port_class, sets))
                })
            && self.services.iter().all(in_services)
            && self.icmp.as_ref().is_none_or(|spans| {
                let packet = key.source_port << 8 | key.destination_port;
                key.layer4 == Layer4::Icmp && contains(spans, packet)
            })
    }
}

/// The rules that are looked at again after compilation; the others are not kept.
#[derive(Clone, Debug)]
pub(super) struct Kept<A> {
    /// Ascending.
    numbers: Box<[u32]>,
    rules: Box<[Lowered<A>]>,
}

impl<A: Address> Kept<A> {
    /// Those of `all` whose numbers are in `numbers`, in any order, several times or not.
    pub fn new(all: &[Option<Lowered<A>>], mut numbers: Vec<u32>) -> Self {
        numbers.retain(|&number| all[number as usize].is_some());
        numbers.sort_unstable();
        numbers.dedup();
        Self {
            rules: (numbers.iter())
                .filter_map(|&number| all[number as usize].clone())
                .collect(),
            numbers: numbers.into(),
        }
    }

    /// Rule `number`, if it was kept.
    pub fn rule(&self, number: u32) -> Option<&Lowered<A>> {
        let at = self.numbers.binary_search(&number).ok()?;
        self.rules.get(at)
    }

    /// Bytes, without the lists of long rules.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.numbers[..]) + size_of_val(&self.rules[..])
    }
}

impl<A: Address> LoweredSide<A> {
    fn new(side: &Side) -> Option<Self> {
        // Calico's family filter: a list without an entry of this family can never be met.
        let of_family = |list: &[Prefix]| {
            let own: Vec<Span<A>> = list.iter().filter_map(Prefix::range).collect();
            (list.is_empty() || !own.is_empty()).then_some(own)
        };
        let mut wanted = of_family(&side.prefixes)?;
        if wanted.is_empty() {
            wanted.push((A::FIRST, A::LAST));
        }
        let addresses = subtract(&union(wanted), &union(of_family(&side.not_prefixes)?));
        let ports = Ports::new(side);
        (!addresses.is_empty() && !ports.is_impossible()).then(|| Self {
            addresses,
            all_of: side.all_of.clone(),
            none_of: side.none_of.clone(),
            ports,
        })
    }

    /// Whether `class` is in every set it has to be in, and in no other that matters.
    pub fn class_matches(&self, class: u32, sets: &SetClasses) -> bool {
        let inside = |&set: &SetId| sets.addresses.contains(class, set);
        self.all_of.iter().all(inside) && !self.none_of.iter().any(inside)
    }

    /// Whether every address is accepted.
    pub fn any_address(&self) -> bool {
        self.addresses == [(A::FIRST, A::LAST)]
    }
}

impl Ports {
    fn new(side: &Side) -> Self {
        let spans = |ranges: &[PortRange]| {
            union(
                ranges
                    .iter()
                    .map(|range| (range.first(), range.last()))
                    .collect(),
            )
        };
        let mut accepted = spans(&side.ports);
        if accepted.is_empty() && side.port_sets.is_empty() {
            accepted.push((0, u16::MAX));
        }
        let mut refused = spans(&side.not_ports);
        accepted = subtract(&accepted, &refused);
        if side.port_sets.is_empty() {
            refused.clear();
        }
        Self {
            accepted,
            accepted_sets: side.port_sets.clone(),
            refused,
            refused_sets: side.not_port_sets.clone(),
        }
    }

    fn is_impossible(&self) -> bool {
        self.accepted.is_empty() && self.accepted_sets.is_empty()
    }

    /// Whether `port` of a packet that has ports passes.
    pub fn matches(&self, port: u16, class: u32, sets: &SetClasses) -> bool {
        (contains(&self.accepted, port) || self.accepts_class(class, sets))
            && !contains(&self.refused, port)
            && !self.refuses_class(class, sets)
    }

    /// Whether the class alone makes the port acceptable.
    pub fn accepts_class(&self, class: u32, sets: &SetClasses) -> bool {
        (self.accepted_sets.iter()).any(|&set| sets.ip_ports.contains(class, set))
    }

    /// Whether the class alone forbids the port.
    pub fn refuses_class(&self, class: u32, sets: &SetClasses) -> bool {
        (self.refused_sets.iter()).any(|&set| sets.ip_ports.contains(class, set))
    }
}

fn icmp_spans(wanted: Option<Icmp>, unwanted: Option<Icmp>) -> Option<Vec<Span<u16>>> {
    let span = |icmp: Icmp| {
        let first = u16::from(icmp.icmp_type) << 8;
        match icmp.code {
            Some(code) => (first | u16::from(code), first | u16::from(code)),
            None => (first, first | 0xff),
        }
    };
    if wanted.is_none() && unwanted.is_none() {
        return None;
    }
    let from = wanted.map_or((0, u16::MAX), span);
    let holes: Vec<_> = unwanted.map(span).into_iter().collect();
    Some(subtract(&[from], &holes))
}
