//! What objects say about each other.

mod nat;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::policy::{AccessList, ResourceKind};
use crate::{
    Address, Changes, Connected, DesiredState, Interface, InterfaceKind, InterfaceName, Kind, Mtu,
    NextHop, ObjectKey, ObjectName, Route, RouteType, SpecError, VrfName,
};

/// Checks a state that these changes made of one that is valid: only what they may have made wrong.
pub(crate) fn validate_change(
    state: &DesiredState,
    changes: &Changes,
) -> Result<(), Vec<SpecError>> {
    // Translation looks at these kinds of policy.
    let is_translated = |key: &ObjectKey| {
        let kinds = [ResourceKind::IpPool, ResourceKind::FelixConfiguration];
        kinds.map(Kind::Policy).contains(&key.kind)
    };
    let mut changed = changes.upserted.iter().chain(&changes.deleted);
    if !changes.only_policy() || changed.any(is_translated) {
        return validate(state, changes);
    }
    // Nothing else looks at policy, and policy looks at interfaces alone.
    let mut check = Check {
        state,
        changes,
        connected: Connected::default(),
        errors: Vec::new(),
        orphans: BTreeMap::new(),
    };
    let makes_profiles = |key: &ObjectKey| {
        let kinds = [
            ResourceKind::Profile,
            ResourceKind::Namespace,
            ResourceKind::ServiceAccount,
        ];
        kinds.map(Kind::Policy).contains(&key.kind)
    };
    let mut changed = changes.upserted.iter().chain(&changes.deleted);
    if changed.any(makes_profiles) {
        check.profiles();
    }
    for key in &changes.upserted {
        let list = state.policy.access_lists.get(key.name.as_str());
        if let Some(list) = list
            && key.kind == Kind::Policy(ResourceKind::AccessList)
        {
            check.access_list(&key.name, list);
        }
    }
    check.finish()
}

/// Checks a state. `changes` only decide whom to blame.
pub(crate) fn validate(state: &DesiredState, changes: &Changes) -> Result<(), Vec<SpecError>> {
    let mut check = Check {
        state,
        changes,
        connected: Connected::new(state),
        errors: Vec::new(),
        orphans: BTreeMap::new(),
    };
    check.interfaces();
    check.addresses();
    check.overlaps();
    check.routes();
    check.neighbours();
    check.policy();
    check.nat();
    check.finish()
}

struct Check<'a> {
    state: &'a DesiredState,
    changes: &'a Changes,
    connected: Connected<'a>,
    errors: Vec<SpecError>,
    /// Removed objects, and what still refers to them.
    orphans: BTreeMap<ObjectKey, Vec<String>>,
}

impl<'a> Check<'a> {
    fn interfaces(&mut self) {
        let mut devices = HashMap::new();
        let mut tags = HashMap::new();
        for (name, interface) in &self.state.interfaces {
            let key = || ObjectKey::new(Kind::Interface, name.as_str());
            self.vrf_exists(key, "spec.vrf", &interface.vrf);
            match &interface.kind {
                InterfaceKind::AfPacket(port) => {
                    if let Some(other) = devices.insert(&port.device, name) {
                        let field = "spec.afPacket.device";
                        let message = |other| {
                            format!(
                                "device {} already belongs to Interface/{other}",
                                port.device
                            )
                        };
                        self.conflict((key(), field, message(other)), {
                            let other_key = ObjectKey::new(Kind::Interface, other.as_str());
                            (other_key, field, message(name))
                        });
                    }
                }
                InterfaceKind::Vlan(vlan) => {
                    match self.state.interfaces.get(&vlan.parent) {
                        None => self.missing(
                            key(),
                            "spec.vlan.parent",
                            ObjectKey::new(Kind::Interface, vlan.parent.as_str()),
                        ),
                        Some(parent) => self.sub_interface(key(), interface, &vlan.parent, parent),
                    }
                    let tag = (&vlan.parent, vlan.outer, vlan.id);
                    if let Some(other) = tags.insert(tag, name) {
                        let field = "spec.vlan.id";
                        let message = |other| {
                            format!(
                                "VLAN {} of {} already belongs to Interface/{other}",
                                match vlan.outer {
                                    Some((_, outer)) => format!("{outer}.{}", vlan.id),
                                    None => vlan.id.to_string(),
                                },
                                vlan.parent
                            )
                        };
                        let other_key = ObjectKey::new(Kind::Interface, other.as_str());
                        self.conflict(
                            (key(), field, message(other)),
                            (other_key, field, message(name)),
                        );
                    }
                }
            }
        }
    }

    fn sub_interface(
        &mut self,
        key: ObjectKey,
        interface: &Interface,
        parent_name: &InterfaceName,
        parent: &Interface,
    ) {
        if matches!(parent.kind, InterfaceKind::Vlan(_)) {
            let message = format!(
                "{parent_name} is a sub-interface itself; for two tags, name the port as parent and give the outer tag in spec.vlan.outerId"
            );
            self.errors
                .push(SpecError::new(key, "spec.vlan.parent", message));
        } else if let (Some(own), Some(parents)) = (interface.mtu, parent.mtu)
            && own > parents
        {
            let parent_key = ObjectKey::new(Kind::Interface, parent_name.as_str());
            self.conflict(
                (
                    key.clone(),
                    "spec.mtu",
                    format!("{own} bytes, but the parent {parent_name} carries {parents}"),
                ),
                (
                    parent_key,
                    "spec.mtu",
                    format!(
                        "{parents} bytes, but the sub-interface {} has {own}",
                        key.name
                    ),
                ),
            );
        }
    }

    fn addresses(&mut self) {
        for (name, address) in &self.state.addresses {
            let key = ObjectKey::new(Kind::Address, name.as_str());
            let Some(interface) = self.state.interfaces.get(&address.interface) else {
                let target = ObjectKey::new(Kind::Interface, address.interface.as_str());
                self.missing(key, "spec.interface", target);
                continue;
            };
            if address.address.ip().is_ipv6()
                && let Some(mtu) = self.mtu_of(interface)
                && mtu < Mtu::IPV6_MINIMUM
            {
                let least = Mtu::IPV6_MINIMUM;
                self.conflict(
                    (
                        ObjectKey::new(Kind::Interface, address.interface.as_str()),
                        "spec.mtu",
                        format!(
                            "{mtu} bytes, but IPv6 needs {least} (RFC 8200 section 5), and Address/{name} is IPv6"
                        ),
                    ),
                    (
                        key,
                        "spec.address",
                        format!(
                            "IPv6 needs an MTU of {least} bytes (RFC 8200 section 5), but Interface/{} has {mtu}",
                            address.interface
                        ),
                    ),
                );
            }
        }
    }

    fn policy(&mut self) {
        self.profiles();
        for (name, list) in &self.state.policy.access_lists {
            self.access_list(name, list);
        }
    }

    fn profiles(&mut self) {
        if let Err(errors) = self.state.policy.validate() {
            self.errors.extend(errors.into_iter().map(|(id, error)| {
                SpecError::new(ObjectKey::from(&id), error.field, error.message)
            }));
        }
    }

    fn access_list(&mut self, name: &str, list: &AccessList) {
        if !self.state.interfaces.contains_key(&list.interface) {
            let kind = Kind::Policy(ResourceKind::AccessList);
            self.missing(
                ObjectKey::new(kind, name),
                "spec.interface",
                ObjectKey::new(Kind::Interface, list.interface.as_str()),
            );
        }
    }

    /// The MTU that is configured for an interface: its own, or its parent's.
    fn mtu_of(&self, interface: &Interface) -> Option<Mtu> {
        interface.mtu.or_else(|| match &interface.kind {
            InterfaceKind::AfPacket(_) => None,
            InterfaceKind::Vlan(vlan) => self.state.interfaces.get(&vlan.parent)?.mtu,
        })
    }

    /// Within one VRF, an address is on one interface once, and subnets of different interfaces are disjoint. IPv6 link-local
    /// addresses are judged link by link.
    fn overlaps(&mut self) {
        let mut spans: Vec<Span<'a>> = Vec::new();
        let mut seen: HashMap<(&VrfName, Option<&InterfaceName>, IpAddr), &ObjectName> =
            HashMap::new();
        for (name, address) in &self.state.addresses {
            let Some(vrf) = self.state.vrf_of(&address.interface) else {
                continue;
            };
            let link = address
                .address
                .is_link_local()
                .then_some(&address.interface);
            if let Some(other) = seen.insert((vrf, link, address.address.ip()), name) {
                let message = |other: &ObjectName| {
                    format!(
                        "{} is already the address of Address/{other}",
                        address.address.ip()
                    )
                };
                self.address_conflict((name, message(other)), (other, message(name)));
                continue;
            }
            if link.is_none() {
                spans.push(Span::new(vrf, name, address));
            }
        }
        // Prefixes are nested or disjoint: in this order, those around the next one form a stack.
        spans.sort_by_key(|span| (span.vrf, span.v6, span.first, std::cmp::Reverse(span.last)));
        let mut around: Vec<&Span<'a>> = Vec::new();
        for span in &spans {
            while around.last().is_some_and(|outer| !outer.holds(span)) {
                around.pop();
            }
            let outer = around
                .iter()
                .rev()
                .find(|outer| outer.address.interface != span.address.interface);
            if let Some(outer) = outer {
                let message = |mine: &Span<'_>, other: &Span<'_>| {
                    format!(
                        "subnet {} overlaps {} of Interface/{} (Address/{}) in VRF {}",
                        mine.address.address.subnet(),
                        other.address.address.subnet(),
                        other.address.interface,
                        other.name,
                        mine.vrf
                    )
                };
                let first = (span.name, message(span, outer));
                let second = (outer.name, message(outer, span));
                self.address_conflict(first, second);
            }
            let repeated = around.last().is_some_and(|top| {
                top.first == span.first
                    && top.last == span.last
                    && top.address.interface == span.address.interface
            });
            if !repeated {
                around.push(span);
            }
        }
    }

    fn address_conflict(&mut self, first: (&ObjectName, String), second: (&ObjectName, String)) {
        let key = |name: &ObjectName| ObjectKey::new(Kind::Address, name.as_str());
        self.conflict(
            (key(first.0), "spec.address", first.1),
            (key(second.0), "spec.address", second.1),
        );
    }

    fn routes(&mut self) {
        let mut seen = HashMap::new();
        for (name, route) in &self.state.routes {
            let key = || ObjectKey::new(Kind::Route, name.as_str());
            let known = self.vrf_exists(key, "spec.vrf", &route.vrf);
            if let Some(other) = seen.insert((&route.vrf, route.destination), name) {
                let message = |other: &ObjectName| {
                    format!(
                        "VRF {} already has {}, by Route/{other}",
                        route.vrf, route.destination
                    )
                };
                self.conflict(
                    (key(), "spec.destination", message(other)),
                    (
                        ObjectKey::new(Kind::Route, other.as_str()),
                        "spec.destination",
                        message(name),
                    ),
                );
            }
            if let Some(interface) = self
                .connected
                .interface_with(&route.vrf, route.destination.net())
            {
                let message = format!(
                    "{} is the connected subnet of Interface/{interface}, which takes precedence",
                    route.destination
                );
                self.errors
                    .push(SpecError::new(key(), "spec.destination", message));
            }
            if known && route.route_type == RouteType::Unicast {
                for (index, next_hop) in route.next_hops.iter().enumerate() {
                    self.next_hop(key(), route, index, next_hop);
                }
            }
        }
    }

    fn next_hop(&mut self, key: ObjectKey, route: &Route, index: usize, next_hop: &NextHop) {
        let field = |name: &str| format!("spec.nextHops[{index}].{name}");
        if let Some(interface) = &next_hop.interface {
            match self.state.vrf_of(interface) {
                None => {
                    let target = ObjectKey::new(Kind::Interface, interface.as_str());
                    return self.missing(key, &field("interface"), target);
                }
                Some(vrf) if *vrf != route.vrf => {
                    let message = format!(
                        "Interface/{interface} is in VRF {vrf}, the route in VRF {}",
                        route.vrf
                    );
                    self.errors
                        .push(SpecError::new(key, field("interface"), message));
                    return;
                }
                Some(_) => {}
            }
        }
        let Some(via) = next_hop.via else { return };
        let wrong = match &next_hop.interface {
            _ if self.connected.own(&route.vrf, via).is_some() => {
                Some(format!("{via} is an address of ours; name the next router"))
            }
            None if crate::address::is_link_local(via) => Some(format!(
                "{via} is link-local: spec.nextHops[{index}].interface is required"
            )),
            None if self.connected.interface_of(&route.vrf, via).is_none() => Some(format!(
                "{via} is in no connected subnet of VRF {}: add an Address, or name the interface",
                route.vrf
            )),
            Some(interface) if !self.connected.on_link(interface, via) => {
                Some(format!("{via} is in no subnet of Interface/{interface}"))
            }
            _ => None,
        };
        if let Some(message) = wrong {
            self.errors.push(SpecError::new(key, field("via"), message));
        }
    }

    fn neighbours(&mut self) {
        let mut seen = HashMap::new();
        for (name, neighbour) in &self.state.neighbours {
            let key = || ObjectKey::new(Kind::Neighbour, name.as_str());
            let Some(vrf) = self.state.vrf_of(&neighbour.interface) else {
                let target = ObjectKey::new(Kind::Interface, neighbour.interface.as_str());
                self.missing(key(), "spec.interface", target);
                continue;
            };
            let address = neighbour.address;
            if let Some(other) = seen.insert((&neighbour.interface, address), name) {
                let message = |other: &ObjectName| {
                    format!(
                        "{address} on {} already belongs to Neighbour/{other}",
                        neighbour.interface
                    )
                };
                self.conflict(
                    (key(), "spec.address", message(other)),
                    (
                        ObjectKey::new(Kind::Neighbour, other.as_str()),
                        "spec.address",
                        message(name),
                    ),
                );
            }
            if let Some(own) = self.connected.own(vrf, address) {
                let message = format!("{address} is an address of ours (Address/{own})");
                self.errors
                    .push(SpecError::new(key(), "spec.address", message));
            } else if !self.connected.on_link(&neighbour.interface, address) {
                let message = format!(
                    "{address} is in no subnet of Interface/{}",
                    neighbour.interface
                );
                self.errors
                    .push(SpecError::new(key(), "spec.address", message));
            }
        }
    }

    fn vrf_exists(&mut self, key: impl Fn() -> ObjectKey, field: &str, vrf: &VrfName) -> bool {
        let known = vrf.is_default() || self.state.vrfs.contains_key(vrf);
        if !known {
            self.missing(key(), field, ObjectKey::new(Kind::Vrf, vrf.as_str()));
        }
        known
    }

    /// A reference to nothing: the referrer's fault, unless the change took the object away.
    fn missing(&mut self, referrer: ObjectKey, field: &str, target: ObjectKey) {
        if self.changes.deleted.contains(&target) && !self.changes.upserted.contains(&referrer) {
            self.orphans
                .entry(target)
                .or_default()
                .push(format!("{referrer} ({field})"));
        } else {
            let message = format!("{target} does not exist");
            self.errors.push(SpecError::new(referrer, field, message));
        }
    }

    /// Two objects that do not go together: the second one's fault only if it alone is new.
    fn conflict(&mut self, first: (ObjectKey, &str, String), second: (ObjectKey, &str, String)) {
        let new = |key| self.changes.upserted.contains(key);
        let (object, field, message) = if new(&second.0) && !new(&first.0) {
            second
        } else {
            first
        };
        self.errors.push(SpecError::new(object, field, message));
    }

    fn finish(mut self) -> Result<(), Vec<SpecError>> {
        for (target, referrers) in self.orphans {
            const NAMED: usize = 10;
            let mut message = format!(
                "still used by {}",
                referrers[..referrers.len().min(NAMED)].join(", ")
            );
            if referrers.len() > NAMED {
                message.push_str(&format!(" and {} more", referrers.len() - NAMED));
            }
            self.errors.push(SpecError::new(target, "", message));
        }
        if self.errors.is_empty() {
            return Ok(());
        }
        self.errors.sort();
        self.errors.dedup();
        Err(self.errors)
    }
}

/// A connected subnet as a range of addresses.
struct Span<'a> {
    vrf: &'a VrfName,
    v6: bool,
    first: u128,
    last: u128,
    name: &'a ObjectName,
    address: &'a Address,
}

impl<'a> Span<'a> {
    fn new(vrf: &'a VrfName, name: &'a ObjectName, address: &'a Address) -> Self {
        let number = |address| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        let subnet = address.address.subnet();
        Self {
            vrf,
            v6: address.address.ip().is_ipv6(),
            first: number(subnet.network()),
            last: number(subnet.broadcast()),
            name,
            address,
        }
    }

    fn holds(&self, other: &Self) -> bool {
        self.vrf == other.vrf && self.v6 == other.v6 && self.last >= other.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AfPacket, DeviceName, InterfaceAddress, ObjectSpec};
    use proptest::prelude::*;

    fn interface(device: &str) -> Interface {
        let device = DeviceName::new(device).expect("valid");
        Interface::new(InterfaceKind::AfPacket(AfPacket::new(device)))
    }

    fn address(interface: &str, address: &str) -> Address {
        Address {
            interface: InterfaceName::new(interface).expect("valid"),
            address: address.parse().expect("valid"),
        }
    }

    fn two_ports() -> DesiredState {
        let mut state = DesiredState::default();
        for name in ["a", "b"] {
            state
                .insert(name, ObjectSpec::Interface(interface(name)))
                .expect("valid");
        }
        state
    }

    #[test]
    fn a_conflict_is_the_new_objects_fault() {
        let mut state = two_ports();
        state
            .insert("z", ObjectSpec::Address(address("a", "10.0.0.1/24")))
            .expect("valid");
        let before = state.clone();
        state
            .insert("y", ObjectSpec::Address(address("b", "10.0.0.2/16")))
            .expect("valid");
        let errors = state
            .validate_change(&state.changes_since(&before))
            .expect_err("overlaps");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].object, ObjectKey::new(Kind::Address, "y"));
        assert_eq!(
            errors[0].message,
            "subnet 10.0.0.0/16 overlaps 10.0.0.0/24 of Interface/a (Address/z) in VRF default"
        );
    }

    #[test]
    fn what_others_use_cannot_go_alone() {
        let mut state = two_ports();
        state
            .insert("z", ObjectSpec::Address(address("a", "10.0.0.1/24")))
            .expect("valid");
        let before = state.clone();
        let key = ObjectKey::new(Kind::Interface, "a");
        assert!(state.remove(&key));
        let errors = state
            .validate_change(&state.changes_since(&before))
            .expect_err("is used");
        assert_eq!(
            errors,
            [SpecError::new(
                key.clone(),
                "",
                "still used by Address/z (spec.interface)"
            )]
        );
        let gone = state.remove_with_dependants(&key);
        assert_eq!(
            gone.into_iter().collect::<Vec<_>>(),
            [ObjectKey::new(Kind::Address, "z")]
        );
    }

    fn any_address() -> impl Strategy<Value = (bool, InterfaceAddress)> {
        let v4 = (0u32..64, 24u8..=32)
            .prop_map(|(host, length)| format!("10.0.0.{}/{length}", host * 4 + 1));
        let v6 = (0u32..64, 118u8..=128)
            .prop_map(|(host, length)| format!("2001:db8::{:x}/{length}", host * 9));
        (
            any::<bool>(),
            prop_oneof![v4, v6].prop_filter_map("no host", |text| text.parse().ok()),
        )
    }

    /// Objects that can be wrong together: any of them may come, go, or refer to one that is not there.
    fn any_change() -> impl Strategy<Value = (ObjectKey, Option<ObjectSpec>)> {
        let document = |text: String| {
            use crate::policy::{Object, Value};
            let map = |entries: Vec<(&str, Value)>| {
                let entries = entries.into_iter();
                Value::Map(
                    entries
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                )
            };
            let text_of = |text: &str| Value::Text(text.to_owned());
            let (kind, name) = text.split_once(' ').expect("a kind and a name");
            let (version, namespace, spec) = match kind {
                "AccessList" => {
                    let rules = Value::List(Vec::new());
                    let (interface, direction) = (text_of(&name[..1]), text_of("Input"));
                    let spec = vec![
                        ("interface", interface),
                        ("direction", direction),
                        ("rules", rules),
                    ];
                    ("oncilla.io/v1", None, Some(map(spec)))
                }
                "ServiceAccount" => ("v1", Some("n"), None),
                "Namespace" => ("v1", None, None),
                _ => ("projectcalico.org/v3", None, Some(map(Vec::new()))),
            };
            let mut metadata = vec![("name", text_of(name))];
            metadata.extend(namespace.map(|namespace| ("namespace", text_of(namespace))));
            let mut fields = vec![
                ("apiVersion", text_of(version)),
                ("kind", text_of(kind)),
                ("metadata", map(metadata)),
            ];
            fields.extend(spec.map(|spec| ("spec", spec)));
            let object = Object::read(&map(fields)).expect("valid");
            (
                ObjectKey::from(&object.id),
                ObjectSpec::Policy(Box::new(object)),
            )
        };
        let policy = prop_oneof![
            "[abc][12]".prop_map(|name| format!("AccessList {name}")),
            "(kns|ksa\\.n)\\.[xy]".prop_map(|name| format!("Profile {name}")),
            "[xy]".prop_map(|name| format!("Namespace {name}")),
            "[xy]".prop_map(|name| format!("ServiceAccount {name}")),
            "[xy]".prop_map(|name| format!("GlobalNetworkPolicy {name}")),
        ]
        .prop_map(document);
        let interface = "[abc]".prop_map(|name| {
            let key = ObjectKey::new(Kind::Interface, name.as_str());
            (key, ObjectSpec::Interface(interface(&name)))
        });
        let address = ("[abc]", 0u8..4).prop_map(|(on, host)| {
            let key = ObjectKey::new(Kind::Address, format!("n{host}").as_str());
            (
                key,
                ObjectSpec::Address(address(&on, &format!("10.0.{host}.1/22"))),
            )
        });
        let any = prop_oneof![4 => policy, 1 => interface, 1 => address];
        (any, proptest::bool::weighted(0.7))
            .prop_map(|((key, spec), comes)| (key, comes.then_some(spec)))
    }

    proptest! {
        /// A change of a valid state is found wrong exactly where the whole is, with the same errors.
        #[test]
        fn a_change_is_checked_as_the_whole_would_be(
            transactions in proptest::collection::vec(proptest::collection::vec(any_change(), 1..4), 1..40)
        ) {
            let mut state = DesiredState::default();
            for transaction in transactions {
                let mut next = state.clone();
                for (key, spec) in transaction {
                    match spec {
                        Some(spec) => next.insert(&key.name, spec).expect("valid"),
                        None => drop(next.remove(&key)),
                    }
                }
                let changes = next.changes_since(&state);
                let found = next.validate_change(&changes);
                prop_assert_eq!(&found, &validate(&next, &changes));
                prop_assert_eq!(found.is_ok(), next.validate().is_ok());
                if found.is_ok() {
                    state = next;
                }
            }
        }

        /// The sweep finds an overlap exactly where comparing all pairs does.
        #[test]
        fn overlap_sweep_equals_all_pairs(addresses in proptest::collection::vec(any_address(), 0..12)) {
            let mut state = two_ports();
            for (index, (on_a, net)) in addresses.iter().enumerate() {
                let entry = Address {
                    interface: InterfaceName::new(if *on_a { "a" } else { "b" }).expect("valid"),
                    address: *net,
                };
                state.insert(&format!("n{index}"), ObjectSpec::Address(entry)).expect("valid");
            }
            let clash = addresses.iter().enumerate().any(|(index, (on_a, net))| {
                addresses[..index].iter().any(|(other_on_a, other)| {
                    let (x, y) = (net.subnet(), other.subnet());
                    net.ip() == other.ip() || on_a != other_on_a && (x.contains(&y) || y.contains(&x))
                })
            });
            prop_assert_eq!(state.validate().is_err(), clash);
        }

        /// Taking out an object with its dependants leaves a valid state.
        #[test]
        fn removal_with_dependants_is_valid(addresses in proptest::collection::vec(any_address(), 0..8)) {
            let mut state = two_ports();
            for (index, (on_a, net)) in addresses.iter().enumerate() {
                let entry = Address {
                    interface: InterfaceName::new(if *on_a { "a" } else { "b" }).expect("valid"),
                    address: *net,
                };
                state.insert(&format!("n{index}"), ObjectSpec::Address(entry)).expect("valid");
            }
            state.remove_with_dependants(&ObjectKey::new(Kind::Interface, "a"));
            prop_assert!(state.validate().is_ok());
            prop_assert!(state.addresses.values().all(|address| address.interface.as_str() == "b"));
        }
    }
}
