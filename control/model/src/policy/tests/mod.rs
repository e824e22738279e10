//! Tests of the whole family: documents in, verdicts out.

mod bad_input;
mod conversion;
mod hosts;
mod properties;
mod verdicts;

use std::net::IpAddr;

use super::reference::{EndpointId, Packet, evaluate};
use super::{Direction, NamespacedName, Object, ObjectError, PolicyState, Value};

/// A document from JSON.
fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => Value::Float(number.as_f64().expect("a number")),
        },
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Array(list) => Value::List(list.iter().map(value).collect()),
        serde_json::Value::Object(map) => {
            Value::map(map.iter().map(|(key, entry)| (key.clone(), value(entry))))
        }
    }
}

fn read(json: &serde_json::Value) -> Result<Object, ObjectError> {
    Object::read(&value(json))
}

fn object(json: &serde_json::Value) -> Object {
    read(json).unwrap_or_else(|error| panic!("{error}\n{json}"))
}

/// A document of one of Calico's kinds; `ns/name` puts it into a namespace.
fn calico(kind: &str, name: &str, spec: &serde_json::Value) -> serde_json::Value {
    document("projectcalico.org/v3", kind, name, spec)
}

fn document(version: &str, kind: &str, name: &str, spec: &serde_json::Value) -> serde_json::Value {
    let metadata = match name.split_once('/') {
        Some((namespace, name)) => serde_json::json!({"namespace": namespace, "name": name}),
        None => serde_json::json!({"name": name}),
    };
    serde_json::json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

fn with_labels(mut document: serde_json::Value, labels: serde_json::Value) -> serde_json::Value {
    document["metadata"]["labels"] = labels;
    document
}

fn state_of(documents: &[serde_json::Value]) -> PolicyState {
    let mut state = PolicyState::default();
    for document in documents {
        state.insert(object(document));
    }
    state
}

fn workload(name: &str) -> EndpointId {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    EndpointId::Workload(NamespacedName::new(namespace, name))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    Packet::new(ip(source), ip(destination), 6).with_ports(40_000, port)
}

fn udp(source: &str, destination: &str, port: u16) -> Packet {
    Packet::new(ip(source), ip(destination), 17).with_ports(40_000, port)
}

fn icmp(source: &str, destination: &str, kind: u8, code: u8) -> Packet {
    let mut packet = Packet::new(ip(source), ip(destination), 1);
    if packet.source.is_ipv6() {
        packet.protocol = 58;
    }
    packet.icmp = Some((kind, code));
    packet
}

/// `allow tier/policy/rule` or what decided, on ingress.
fn ingress(state: &PolicyState, endpoint: &EndpointId, packet: &Packet) -> String {
    told(state, endpoint, Direction::Ingress, packet)
}

fn egress(state: &PolicyState, endpoint: &EndpointId, packet: &Packet) -> String {
    told(state, endpoint, Direction::Egress, packet)
}

fn told(
    state: &PolicyState,
    endpoint: &EndpointId,
    direction: Direction,
    packet: &Packet,
) -> String {
    packet.check().expect("a well-formed packet");
    tell(&evaluate(state, endpoint, direction, packet).enforced)
}

fn tell(decision: &super::reference::Decision) -> String {
    let reason = &decision.reason;
    let action = if decision.allow { "allow" } else { "deny" };
    let parts = [
        reason.tier().map(str::to_owned),
        reason.policy(),
        reason.rule().map(|rule| rule.to_string()),
    ];
    let mut place: Vec<_> = parts.into_iter().flatten().collect();
    if reason.rule().is_none() {
        place.push(reason.as_str().to_owned());
    }
    format!("{action} {}", place.join(" "))
}
