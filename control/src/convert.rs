//! API objects to model types, with the path of every field that is wrong.

mod nat;

use std::fmt::Display;
use std::num::NonZeroU8;
use std::str::FromStr;

use control_api::API_VERSION;
use control_api::v1::{self, Object, object::Spec};
use model::{
    AfPacket, DesiredState, Interface, InterfaceKind, Invalid, Kind, MAX_NEXT_HOPS, Mtu, Neighbour,
    NextHop, ObjectKey, ObjectSpec, Route, RouteType, TagProtocol, Vlan, VlanId, Vrf, VrfName,
    Weight,
};

/// Bytes that an object's labels and annotations may have together, as in Kubernetes.
const METADATA_LIMIT: usize = 256 * 1024;

/// Checks an object on its own and takes it.
///
/// # Errors
///
/// Everything that is wrong with it, never empty.
pub fn to_model(object: &Object) -> Result<(ObjectKey, ObjectSpec), Vec<v1::SpecError>> {
    if let Some(Spec::Document(document)) = &object.spec {
        return from_document(object, &document.json);
    }
    let mut fields = Fields {
        object,
        errors: Vec::new(),
    };
    let kind = fields.header();
    let name = object.name();
    let spec = kind.and_then(|kind| fields.spec(kind));
    match (kind, spec) {
        (Some(kind), Some(spec)) if fields.errors.is_empty() => {
            Ok((ObjectKey::new(kind, name), spec))
        }
        _ => Err(fields.errors),
    }
}

/// An object of policy, from its document.
fn from_document(
    object: &Object,
    json: &str,
) -> Result<(ObjectKey, ObjectSpec), Vec<v1::SpecError>> {
    let wrong = |field: &str, message: String| v1::SpecError {
        object: Some(object.key()),
        field: field.to_owned(),
        message,
    };
    let value = crate::yaml::value_of_json(json)
        .map_err(|error| vec![wrong("", format!("the document is no JSON: {error}"))])?;
    let read = model::policy::Object::read(&value).map_err(|errors| {
        let errors = errors.errors.into_iter();
        errors
            .map(|error| wrong(&error.field, error.message))
            .collect::<Vec<_>>()
    })?;
    let key = ObjectKey::from(&read.id);
    let mut errors = Vec::new();
    if object.kind != key.kind.as_str() {
        let message = format!(
            "{:?}, but the document is of kind {}",
            object.kind, key.kind
        );
        errors.push(wrong("kind", message));
    }
    if object.name() != key.name {
        let message = format!("{:?}, but the document's is {:?}", object.name(), key.name);
        errors.push(wrong("metadata.name", message));
    }
    if object.api_version != read.id.kind.api_version() {
        let message = format!(
            "{:?}, but the document's is {:?}",
            object.api_version,
            read.id.kind.api_version()
        );
        errors.push(wrong("apiVersion", message));
    }
    if errors.is_empty() {
        Ok((key, ObjectSpec::Policy(Box::new(read))))
    } else {
        Err(errors)
    }
}

/// Checks objects as if they were the whole desired state. Returns everything that is wrong.
pub fn validate<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<v1::SpecError> {
    let mut state = DesiredState::default();
    let mut errors = Vec::new();
    for object in objects {
        match to_model(object) {
            Ok((key, _)) if state.contains(&key) => errors.push(v1::SpecError {
                object: Some(object.key()),
                field: "metadata.name".into(),
                message: "is there twice".into(),
            }),
            // The conversion has checked the name.
            Ok((key, spec)) => drop(state.insert(&key.name, spec)),
            Err(wrong) => errors.extend(wrong),
        }
    }
    // With objects left out, others would be blamed for what they refer to.
    if errors.is_empty()
        && let Err(wrong) = state.validate()
    {
        errors.extend(wrong.iter().map(from_error));
    }
    errors
}

/// Checks that a key names a kind that exists.
///
/// # Errors
///
/// The kind is unknown.
pub fn to_key(key: &v1::ObjectKey) -> Result<ObjectKey, v1::SpecError> {
    let kind = key.kind.parse::<Kind>().map_err(|error| v1::SpecError {
        object: Some(key.clone()),
        field: "kind".into(),
        message: error.to_string(),
    })?;
    Ok(ObjectKey::new(kind, key.name.as_str()))
}

/// An object's key in the API's terms.
pub fn from_key(key: &ObjectKey) -> v1::ObjectKey {
    v1::ObjectKey {
        kind: key.kind.as_str().to_owned(),
        name: key.name.clone(),
    }
}

/// An error in the API's terms.
pub fn from_error(error: &model::SpecError) -> v1::SpecError {
    v1::SpecError {
        object: Some(from_key(&error.object)),
        field: error.field.clone(),
        message: error.message.clone(),
    }
}

/// Reads an object's fields and collects what is wrong.
struct Fields<'a> {
    object: &'a Object,
    errors: Vec<v1::SpecError>,
}

impl Fields<'_> {
    fn error(&mut self, field: impl Into<String>, message: impl Display) {
        self.errors.push(v1::SpecError {
            object: Some(self.object.key()),
            field: field.into(),
            message: message.to_string(),
        });
    }

    /// Unwraps a checked value, or notes what is wrong with it.
    fn check<T>(&mut self, field: impl Into<String>, value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|error| self.error(field, error)).ok()
    }

    fn required<T: FromStr<Err = Invalid>>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() {
            self.error(field, "required");
            return None;
        }
        self.check(field, text.parse())
    }

    fn optional<T: FromStr<Err = Invalid>>(
        &mut self,
        field: impl Into<String>,
        text: Option<&String>,
    ) -> Option<T> {
        self.check(field, text?.parse())
    }

    fn header(&mut self) -> Option<Kind> {
        let object = self.object;
        if object.api_version != API_VERSION {
            let message = match object.api_version.as_str() {
                "" => format!("required: {API_VERSION:?}"),
                other => format!("{other:?} is unknown; this version knows {API_VERSION:?}"),
            };
            self.error("apiVersion", message);
        }
        let kind = if object.kind.is_empty() {
            self.error(
                "kind",
                format!(
                    "required: one of {}",
                    Kind::PLAIN.map(Kind::as_str).join(", ")
                ),
            );
            None
        } else {
            self.check("kind", object.kind.parse())
        };
        let name = object.name();
        let named = match kind {
            Some(Kind::Interface) => model::InterfaceName::new(name).map(drop),
            Some(Kind::Vrf) if name == VrfName::DEFAULT => Err(Invalid(
                "\"default\" always exists and is never declared".into(),
            )),
            Some(Kind::Vrf) => VrfName::new(name).map(drop),
            _ => model::ObjectName::new(name).map(drop),
        };
        self.check("metadata.name", named);
        if let Some(metadata) = &object.metadata {
            let mut size = 0;
            for (field, pairs) in [
                ("metadata.labels", &metadata.labels),
                ("metadata.annotations", &metadata.annotations),
            ] {
                if pairs.contains_key("") {
                    self.error(field, "a key is empty");
                }
                size += pairs
                    .iter()
                    .map(|(key, value)| key.len() + value.len())
                    .sum::<usize>();
            }
            if size > METADATA_LIMIT {
                self.error("metadata", format!("labels and annotations have {size} bytes; at most {METADATA_LIMIT} are allowed"));
            }
        }
        kind
    }

    fn spec(&mut self, kind: Kind) -> Option<ObjectSpec> {
        let Some(spec) = &self.object.spec else {
            self.error("spec", "required");
            return None;
        };
        if spec.kind() != kind.as_str() {
            self.error(
                "spec",
                format!("is one of kind {}, but the kind is {kind}", spec.kind()),
            );
            return None;
        }
        match spec {
            Spec::Interface(spec) => self.interface(spec).map(ObjectSpec::Interface),
            Spec::Address(spec) => self.address(spec).map(ObjectSpec::Address),
            Spec::Route(spec) => self.route(spec).map(ObjectSpec::Route),
            Spec::Neighbour(spec) => self.neighbour(spec).map(ObjectSpec::Neighbour),
            Spec::NatPool(spec) => self.nat_pool(spec).map(ObjectSpec::NatPool),
            Spec::NatRule(spec) => self.nat_rule(spec).map(ObjectSpec::NatRule),
            Spec::PortForward(spec) => self.port_forward(spec).map(ObjectSpec::PortForward),
            Spec::StaticNat(spec) => self.static_nat(spec).map(ObjectSpec::StaticNat),
            // Taken apart before.
            Spec::Document(_) => None,
            Spec::Vrf(spec) => Some(ObjectSpec::Vrf(Vrf {
                description: spec.description.clone(),
            })),
        }
    }

    fn interface(&mut self, spec: &v1::InterfaceSpec) -> Option<Interface> {
        let kind = match (&spec.af_packet, &spec.vlan) {
            (Some(port), None) => self.af_packet(port).map(InterfaceKind::AfPacket),
            (None, Some(vlan)) => self.vlan(vlan).map(InterfaceKind::Vlan),
            (None, None) => {
                self.error(
                    "spec",
                    "says nothing about what is behind the interface: set afPacket or vlan",
                );
                None
            }
            (Some(_), Some(_)) => {
                self.error(
                    "spec.vlan",
                    "afPacket is set too; exactly one of them is allowed",
                );
                None
            }
        };
        let mtu = spec
            .mtu
            .and_then(|bytes| self.check("spec.mtu", Mtu::new(bytes)));
        let mac_address = self.optional("spec.macAddress", spec.mac_address.as_ref());
        let vrf = self.vrf(spec.vrf.as_ref());
        Some(Interface {
            kind: kind?,
            mtu,
            mac_address,
            admin_up: spec.admin_up.unwrap_or(true),
            vrf,
            proxy_arp: spec.proxy_arp,
            redirects: spec.redirects,
        })
    }

    fn af_packet(&mut self, spec: &v1::AfPacketSpec) -> Option<AfPacket> {
        let device = self.required("spec.afPacket.device", &spec.device);
        let version = self.optional("spec.afPacket.version", spec.version.as_ref());
        let queues = match spec.queues {
            None => Some(NonZeroU8::MIN),
            Some(count) => {
                let most = AfPacket::MAX_QUEUES;
                let checked = u8::try_from(count).ok().filter(|count| *count <= most);
                let checked = checked.and_then(NonZeroU8::new);
                let message = || Invalid(format!("{count} queues; there can be 1 to {most}"));
                self.check("spec.afPacket.queues", checked.ok_or_else(message))
            }
        };
        Some(AfPacket {
            device: device?,
            version,
            queues: queues?,
            offloads: spec.offloads.unwrap_or(true),
            qdisc_bypass: spec.qdisc_bypass.unwrap_or(true),
            gro: spec.gro.or(spec.offloads).unwrap_or(true),
        })
    }

    fn vlan(&mut self, spec: &v1::VlanSpec) -> Option<Vlan> {
        let parent = self.required("spec.vlan.parent", &spec.parent);
        let id = self.check("spec.vlan.id", VlanId::new(spec.id));
        let outer_id = spec
            .outer_id
            .and_then(|id| self.check("spec.vlan.outerId", VlanId::new(id)));
        let outer_tpid =
            self.optional::<TagProtocol>("spec.vlan.outerTpid", spec.outer_tpid.as_ref());
        if spec.outer_tpid.is_some() && spec.outer_id.is_none() {
            self.error(
                "spec.vlan.outerTpid",
                "there is no outer tag: set outerId too",
            );
        }
        let outer = outer_id.map(|id| (outer_tpid.unwrap_or(TagProtocol::Dot1ad), id));
        Some(Vlan {
            parent: parent?,
            id: id?,
            outer,
        })
    }

    fn address(&mut self, spec: &v1::AddressSpec) -> Option<model::Address> {
        let interface = self.required("spec.interface", &spec.interface);
        let address = self.required("spec.address", &spec.address);
        Some(model::Address {
            interface: interface?,
            address: address?,
        })
    }

    fn route(&mut self, spec: &v1::RouteSpec) -> Option<Route> {
        let vrf = self.vrf(spec.vrf.as_ref());
        let destination = self.required::<model::Prefix>("spec.destination", &spec.destination);
        let route_type = match &spec.r#type {
            None => Some(RouteType::Unicast),
            text => self.optional("spec.type", text.as_ref()),
        };
        let count = spec.next_hops.len();
        match route_type {
            Some(RouteType::Unicast) if count == 0 => {
                self.error("spec.nextHops", "required for a unicast route");
            }
            Some(RouteType::Unicast) if count > MAX_NEXT_HOPS => {
                self.error(
                    "spec.nextHops",
                    format!("{count} next hops; there can be 1 to {MAX_NEXT_HOPS}"),
                );
                return None; // bounds the errors below
            }
            Some(other) if other != RouteType::Unicast && count > 0 => {
                self.error(
                    "spec.nextHops",
                    format!("a {} route has none", other.as_str()),
                );
            }
            _ => {}
        }
        let mut next_hops: Vec<NextHop> = Vec::new();
        for (index, spec) in spec.next_hops.iter().take(MAX_NEXT_HOPS).enumerate() {
            let Some(next_hop) = self.next_hop(index, spec, destination) else {
                continue;
            };
            let same = |other: &NextHop| {
                other.via == next_hop.via && other.interface == next_hop.interface
            };
            if next_hops.iter().any(same) {
                self.error(
                    format!("spec.nextHops[{index}]"),
                    "is there twice; give it a weight instead",
                );
            }
            next_hops.push(next_hop);
        }
        Some(Route {
            vrf,
            destination: destination?,
            route_type: route_type?,
            next_hops: next_hops.into_iter().collect(),
        })
    }

    fn next_hop(
        &mut self,
        index: usize,
        spec: &v1::NextHop,
        destination: Option<model::Prefix>,
    ) -> Option<NextHop> {
        let field = |name: &str| format!("spec.nextHops[{index}]{name}");
        let via = match &spec.via {
            Some(text) => Some(self.host_address(field(".via"), text)?),
            None => None,
        };
        if let (Some(via), Some(destination)) = (via, destination)
            && via.is_ipv4() != destination.net().addr().is_ipv4()
        {
            let message = format!("{via} is not of the family of {destination}");
            self.error(field(".via"), message);
        }
        let interface = match &spec.interface {
            Some(name) => Some(self.check(field(".interface"), name.parse())?),
            None => None,
        };
        if via.is_none() && interface.is_none() {
            self.error(field(""), "needs via, interface or both");
        }
        let weight = match spec.weight {
            None => Weight::default(),
            Some(weight) => self.check(field(".weight"), Weight::new(weight))?,
        };
        Some(NextHop {
            via,
            interface,
            weight,
        })
    }

    fn neighbour(&mut self, spec: &v1::NeighbourSpec) -> Option<Neighbour> {
        let interface = self.required("spec.interface", &spec.interface);
        let address = if spec.address.is_empty() {
            self.error("spec.address", "required");
            None
        } else {
            self.host_address("spec.address".into(), &spec.address)
        };
        let mac_address = self.required("spec.macAddress", &spec.mac_address);
        Some(Neighbour {
            interface: interface?,
            address: address?,
            mac_address: mac_address?,
        })
    }

    fn host_address(&mut self, field: String, text: &str) -> Option<std::net::IpAddr> {
        let address = text.parse().map_err(|_| {
            Invalid(format!(
                "{text:?} is no IP address: write it like 10.0.0.1 or 2001:db8::1"
            ))
        });
        self.check(field, address.and_then(Neighbour::check_address))
    }

    fn vrf(&mut self, name: Option<&String>) -> VrfName {
        self.optional("spec.vrf", name).unwrap_or_default()
    }
}
