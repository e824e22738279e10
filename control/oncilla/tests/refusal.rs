//! Objects that make no sense, given to a daemon that forwards: refused whole, with the path of the field, and nothing changes.

mod kit;

use std::fs;

use afpacket_sim::Lab;
use control::client::ClientError;
use control_api::v1::{self, NeighbourEntry};
use kit::{Daemon, TOPOLOGY, all_of, assert_all_answered, key, lab, object, objects};

/// Name, an invalid object, and what its refusal says: the object, the field, a part of the message.
struct Case {
    name: &'static str,
    text: String,
    object: &'static str,
    field: &'static str,
    message: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |name, (kind, own, spec): (&str, &str, &str), object_key, field, message| Case {
        name,
        text: object(kind, own, spec),
        object: object_key,
        field,
        message,
    };
    vec![
        case(
            "an overlapping address",
            ("Address", "bad", "{interface: p1, address: 198.18.1.77/25}"),
            "Address/bad",
            "spec.address",
            "198.18.1.",
        ),
        case(
            "an address twice",
            ("Address", "bad", "{interface: p3, address: 198.18.1.1/24}"),
            "Address/bad",
            "spec.address",
            "198.18.1.",
        ),
        case(
            "an unknown interface",
            ("Address", "bad", "{interface: p9, address: 10.9.0.1/24}"),
            "Address/bad",
            "spec.interface",
            "Interface/p9 does not exist",
        ),
        case(
            "an unknown device",
            ("Interface", "bad", "{afPacket: {device: nowhere}}"),
            "Interface/bad",
            "spec.afPacket.device",
            "nowhere",
        ),
        case(
            "an unknown port",
            ("Interface", "bad", "{vlan: {parent: p9, id: 7}}"),
            "Interface/bad",
            "spec.vlan.parent",
            "Interface/p9 does not exist",
        ),
        case(
            "an MTU too small",
            ("Interface", "p0", "{afPacket: {device: p0}, mtu: 67}"),
            "Interface/p0",
            "spec.mtu",
            "68",
        ),
        case(
            "an MTU too large",
            ("Interface", "p0", "{afPacket: {device: p0}, mtu: 65536}"),
            "Interface/p0",
            "spec.mtu",
            "65535",
        ),
        case(
            "an MTU that IPv6 cannot do with",
            ("Interface", "p0", "{afPacket: {device: p0}, mtu: 1279}"),
            "Interface/p0",
            "spec.mtu",
            "1280",
        ),
        case(
            "an MTU that the device does not have",
            ("Interface", "p0", "{afPacket: {device: p0}, mtu: 9000}"),
            "Interface/p0",
            "spec.mtu",
            "1500",
        ),
        case(
            "a route through a missing interface",
            (
                "Route",
                "bad",
                "{destination: 10.9.0.0/16, nextHops: [{via: 198.18.1.2}, {interface: p9}]}",
            ),
            "Route/bad",
            "spec.nextHops[1].interface",
            "Interface/p9 does not exist",
        ),
        case(
            "a next hop on no link",
            (
                "Route",
                "bad",
                "{destination: 10.9.0.0/16, nextHops: [{via: 192.0.2.1}]}",
            ),
            "Route/bad",
            "spec.nextHops[0].via",
            "192.0.2.1",
        ),
        case(
            "host bits in a prefix",
            (
                "Route",
                "bad",
                "{destination: 10.9.0.1/16, type: blackhole}",
            ),
            "Route/bad",
            "spec.destination",
            "10.9.0.0/16",
        ),
        case(
            "a VLAN id of 5000",
            ("Interface", "bad", "{vlan: {parent: p2, id: 5000}}"),
            "Interface/bad",
            "spec.vlan.id",
            "4094",
        ),
        case(
            "an outer VLAN id of 0",
            (
                "Interface",
                "bad",
                "{vlan: {parent: p2, id: 5, outerId: 0}}",
            ),
            "Interface/bad",
            "spec.vlan.outerId",
            "4094",
        ),
        case(
            "a VLAN that is taken",
            ("Interface", "bad", "{vlan: {parent: p2, id: 10}}"),
            "Interface/bad",
            "spec.vlan.id",
            "p2.10",
        ),
        case(
            "a multicast neighbour",
            (
                "Neighbour",
                "bad",
                "{interface: p0, address: 198.18.1.9, macAddress: \"01:00:00:00:00:01\"}",
            ),
            "Neighbour/bad",
            "spec.macAddress",
            "01:00:00:00:00:01",
        ),
        case(
            "overlapping pools",
            (
                "NatPool",
                "bad",
                "{addresses: [203.0.113.0/30, 203.0.113.77, 203.0.113.64/28]}",
            ),
            "NatPool/bad",
            "spec.addresses[2]",
            "spec.addresses[1]",
        ),
        case(
            "a rule for an unknown interface",
            ("NatRule", "bad", "{outInterfaces: [p0, p9], exempt: true}"),
            "NatRule/bad",
            "spec.outInterfaces[1]",
            "Interface/p9 does not exist",
        ),
        case(
            "a rule with no pool",
            ("NatRule", "bad", "{sources: [10.0.0.0/8], pool: nowhere}"),
            "NatRule/bad",
            "spec.pool",
            "NatPool/nowhere does not exist",
        ),
        case(
            "a forward to an address in no VRF",
            (
                "PortForward",
                "bad",
                "{interface: p0, protocol: tcp, port: 80, targetAddress: 192.0.2.9}",
            ),
            "PortForward/bad",
            "spec.targetAddress",
            "192.0.2.9 is in no connected subnet of VRF default",
        ),
        case(
            "a forward to the other family",
            (
                "PortForward",
                "bad",
                "{address: 198.18.1.1, protocol: tcp, port: 80, targetAddress: '2001:db8:2::2'}",
            ),
            "PortForward/bad",
            "spec.targetAddress",
            "not of the family of 198.18.1.1",
        ),
        case(
            "a forward of port 0",
            (
                "PortForward",
                "bad",
                "{interface: p0, protocol: udp, port: 0, targetAddress: 198.18.2.2}",
            ),
            "PortForward/bad",
            "spec.port",
            "0 is no port",
        ),
        case(
            "a mapping of unequal prefixes",
            (
                "StaticNat",
                "bad",
                "{external: 203.0.113.0/28, internal: 198.18.2.0/29}",
            ),
            "StaticNat/bad",
            "spec.internal",
            "one to one needs equal lengths",
        ),
    ]
}

/// All that a refusal must leave alone. Counters and ages go on.
fn running_state(daemon: &mut Daemon) -> impl PartialEq + std::fmt::Debug + use<> {
    let objects = daemon.objects();
    let mut interfaces = daemon
        .ask(async |client| client.interfaces().await)
        .unwrap()
        .interfaces;
    for interface in &mut interfaces {
        interface.counters = None;
    }
    let neighbours = daemon
        .ask(async |client| client.neighbours().await)
        .unwrap()
        .neighbours;
    let neighbours: Vec<_> = neighbours
        .into_iter()
        .map(|entry| NeighbourEntry {
            age_ms: 0,
            state: String::new(),
            ..entry
        })
        .collect();
    (objects, daemon.routes(), interfaces, neighbours)
}

fn forwarding(lab: &Lab, directory: &std::path::Path) -> Daemon {
    let mut daemon = Daemon::start(lab, directory, &[]);
    daemon.apply(&objects(lab.topology()));
    assert_all_answered(lab, 5);
    daemon
}

#[test]
fn invalid_objects_are_refused_whole_over_grpc() {
    let Some((lab, _turn)) = lab("invalid_objects_are_refused_whole_over_grpc", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = forwarding(&lab, directory.path());
    let before = running_state(&mut daemon);
    for case in cases() {
        let refused = daemon.try_apply(&(good() + &case.text));
        let Err(ClientError::Refused(refusal)) = refused else {
            panic!("{}: {refused:?}", case.name);
        };
        let found = refusal.errors.iter().any(|error| {
            let of_object = error.object.as_ref().map(ToString::to_string);
            of_object.as_deref() == Some(case.object)
                && error.field == case.field
                && error.message.contains(case.message)
        });
        assert!(found, "{}: {:?}", case.name, refusal.errors);
        assert_eq!(running_state(&mut daemon), before, "{}", case.name);
    }
    // What others refer to cannot go, nor can what is not there.
    for (kind, name, message) in [
        ("Interface", "p2", "Interface/p2.10"),
        ("Interface", "p1", "Address/p1-v4"),
        ("Route", "nowhere", "does not exist"),
    ] {
        let keys = vec![key("Address", "p0-v4"), key(kind, name)];
        let refused = daemon.ask(async |client| client.delete(keys).await);
        let error = refused.expect_err(name);
        assert!(all_of(&error).contains(message), "{}", all_of(&error));
        assert_eq!(running_state(&mut daemon), before, "{name}");
    }
    // A kind without its specification, and none at all.
    for object in [
        v1::Object {
            kind: "Route".into(),
            ..v1::Object::default()
        },
        v1::Object::default(),
    ] {
        let refused = daemon.ask(async |client| client.upsert(vec![object]).await);
        assert!(
            matches!(refused, Err(ClientError::Refused(_))),
            "{refused:?}"
        );
    }
    assert_eq!(running_state(&mut daemon), before);
    assert_all_answered(&lab, 20);
    daemon.stop();
}

#[test]
fn invalid_files_are_refused_whole_by_the_command_line() {
    let name = "invalid_files_are_refused_whole_by_the_command_line";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = forwarding(&lab, directory.path());
    let before = running_state(&mut daemon);
    let file = directory.path().join("bad.yaml");
    let unknown_field = Case {
        name: "an unknown field",
        text: object("Interface", "p0", "{afPacket: {device: p0, colour: red}}"),
        object: "Interface/p0",
        field: "spec.afPacket.colour",
        message: "unknown field",
    };
    let wrong_type = Case {
        name: "a word for a number",
        text: object("Interface", "p0", "{afPacket: {device: p0}, mtu: large}"),
        object: "Interface/p0",
        field: "spec.mtu",
        message: "\"large\": invalid u32",
    };
    for case in cases().into_iter().chain([unknown_field, wrong_type]) {
        fs::write(&file, good() + &case.text).unwrap();
        for command in ["apply", "diff"] {
            let (code, out, err) = daemon.cli(&[command, "-f", "bad.yaml"]);
            assert_eq!((code, out.as_str()), (1, ""), "{}: {err}", case.name);
            // The document of the bad object is the second one; the first is good.
            let expected = format!("document 2: {}: {}: ", case.object, case.field);
            let line = err.lines().find(|line| line.contains(&expected));
            let line = line.unwrap_or_else(|| panic!("{}: {err}", case.name));
            assert!(
                line.contains("bad.yaml:") && line.contains(case.message),
                "{}: {line}",
                case.name
            );
        }
        assert_eq!(running_state(&mut daemon), before, "{}", case.name);
    }
    let (code, _, err) = daemon.cli(&["delete", "interface", "p2"]);
    assert_eq!(code, 1);
    assert!(err.contains("Interface/p2: still used by"), "{err}");
    assert_eq!(running_state(&mut daemon), before);
    assert_all_answered(&lab, 20);
    daemon.stop();
}

/// An object that would be accepted alone: with a bad one in the same transaction, it stays out too.
fn good() -> String {
    object("Address", "good", "{interface: p0, address: 10.77.0.1/24}")
}
