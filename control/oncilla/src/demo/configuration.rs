//! What the gateway is told: objects for the router of a topology.

use std::net::IpAddr;

use afpacket_sim::topology::{DEFAULT_MTU, Prefix, Tag, Topology};
use control_api::v1::object::Spec;
use control_api::v1::{
    AddressSpec, AfPacketSpec, InterfaceSpec, NextHop, Object, RouteSpec, VlanSpec,
};

/// A network behind a host, which the gateway needs a route for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    /// Where it is.
    pub(super) network: Prefix,
    /// The host's address.
    pub(super) via: IpAddr,
}

/// The objects, as a user writes them: an interface for every port and VLAN, its addresses, and a route.
pub(super) fn objects(topology: &Topology, behind: Behind) -> Vec<Object> {
    let mut objects = Vec::new();
    for port in topology.ports() {
        let device = InterfaceSpec {
            af_packet: Some(AfPacketSpec {
                device: port.name.clone(),
                ..AfPacketSpec::default()
            }),
            mtu: (port.device.mtu != DEFAULT_MTU).then_some(port.device.mtu),
            ..InterfaceSpec::default()
        };
        interface(&mut objects, &port.name, device, &port.addresses);
        for sub in &port.sub_interfaces {
            let vlan = InterfaceSpec {
                vlan: Some(VlanSpec {
                    parent: port.name.clone(),
                    id: sub.tag.vlan.into(),
                    outer_id: sub.tag.outer.map(u32::from),
                    outer_tpid: None,
                }),
                ..InterfaceSpec::default()
            };
            interface(
                &mut objects,
                &sub_name(&port.name, sub.tag),
                vlan,
                &sub.addresses,
            );
        }
    }
    let route = RouteSpec {
        destination: behind.network.to_string(),
        next_hops: vec![NextHop {
            via: Some(behind.via.to_string()),
            ..NextHop::default()
        }],
        ..RouteSpec::default()
    };
    objects.push(Object::new("behind-b", Spec::Route(route)));
    objects
}

fn interface(objects: &mut Vec<Object>, name: &str, spec: InterfaceSpec, addresses: &[Prefix]) {
    objects.push(Object::new(name, Spec::Interface(spec)));
    for (number, address) in addresses.iter().enumerate() {
        let spec = AddressSpec {
            interface: name.to_owned(),
            address: address.to_string(),
        };
        objects.push(Object::new(format!("{name}-{number}"), Spec::Address(spec)));
    }
}

/// `p2.10`, or `p2.100.10` where there are two tags.
fn sub_name(port: &str, tag: Tag) -> String {
    let outer = tag
        .outer
        .map(|outer| format!("{outer}."))
        .unwrap_or_default();
    format!("{port}.{outer}{}", tag.vlan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_becomes_objects() {
        let topology = "
            router gw
            port p0 198.18.1.1/24 2001:db8:1::1/64 mtu 1400
            port p1
            sub p1 vlan 10 198.18.3.1/24
            sub p1 vlan 10 outer 200
            host a to p0 198.18.1.2/24
            host b to p1 vlan 10 198.18.3.2/24
        "
        .parse()
        .expect("a valid topology");
        let behind = Behind {
            network: Prefix::new([198, 18, 20, 0].into(), 24).expect("a valid prefix"),
            via: [198, 18, 1, 2].into(),
        };
        let objects = objects(&topology, behind);
        let keys: Vec<_> = objects
            .iter()
            .map(|object| object.key().to_string())
            .collect();
        assert_eq!(
            keys,
            [
                "Interface/p0",
                "Address/p0-0",
                "Address/p0-1",
                "Interface/p1",
                "Interface/p1.10",
                "Address/p1.10-0",
                "Interface/p1.200.10",
                "Route/behind-b",
            ]
        );
        let Some(Spec::Interface(p0)) = &objects[0].spec else {
            panic!("an interface: {:?}", objects[0])
        };
        assert_eq!(p0.mtu, Some(1400));
        let Some(Spec::Interface(qinq)) = &objects[6].spec else {
            panic!("an interface: {:?}", objects[6])
        };
        let vlan = qinq.vlan.as_ref().expect("a sub-interface");
        assert_eq!(
            (vlan.parent.as_str(), vlan.id, vlan.outer_id),
            ("p1", 10, Some(200))
        );
    }
}
