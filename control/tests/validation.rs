//! Every kind of invalid object is refused with the path of its field, as YAML and as protobuf, and changes nothing.

mod support;

use std::sync::Arc;

use control::convert;
use control::desired::Desired;
use control::store::MemoryStore;
use control::yaml;
use control_api::v1;
use proptest::prelude::*;
use support::{RecordingDataplane, key};

const BASE: &str = "
apiVersion: oncilla.io/v1
kind: Vrf
metadata: {name: red}
---
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: lan}
spec: {afPacket: {device: eth0}, mtu: 1400}
---
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: wan}
spec:
  afPacket: {device: eth1, version: v3, queues: 2}
---
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: red-side}
spec: {afPacket: {device: eth2}, vrf: red, mtu: 1000}
---
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: lan.10}
spec: {vlan: {parent: lan, id: 10}}
---
apiVersion: oncilla.io/v1
kind: Address
metadata: {name: lan}
spec: {interface: lan, address: 10.0.0.1/24}
---
apiVersion: oncilla.io/v1
kind: Address
metadata: {name: wan}
spec: {interface: wan, address: 192.0.2.1/24}
---
apiVersion: oncilla.io/v1
kind: Address
metadata: {name: lan6}
spec: {interface: lan, address: '2001:db8::1/64'}
---
apiVersion: oncilla.io/v1
kind: Route
metadata: {name: default}
spec: {destination: 0.0.0.0/0, nextHops: [{via: 192.0.2.254}]}
---
apiVersion: oncilla.io/v1
kind: Neighbour
metadata: {name: printer}
spec: {interface: lan, address: 10.0.0.9, macAddress: '02:00:00:00:00:09'}
---
apiVersion: oncilla.io/v1
kind: NatPool
metadata: {name: shared}
spec: {addresses: [198.51.100.0/28, 198.51.100.32-198.51.100.40]}
---
apiVersion: oncilla.io/v1
kind: NatPool
metadata: {name: masquerade}
spec: {interfaceAddress: true, ports: {first: 1024, last: 40000}}
---
apiVersion: oncilla.io/v1
kind: NatPool
metadata: {name: red}
spec: {vrf: red, addresses: [198.51.100.0/28], pairing: arbitrary}
---
apiVersion: oncilla.io/v1
kind: NatRule
metadata: {name: all}
spec: {order: 10, outInterfaces: [wan], sources: [10.0.0.0/8], notDestinations: [10.0.0.0/8], pool: masquerade}
---
apiVersion: oncilla.io/v1
kind: PortForward
metadata: {name: web}
spec: {interface: wan, protocol: tcp, ports: {first: 8000, last: 8010}, targetAddress: 10.0.0.9, targetPort: 80}
---
apiVersion: oncilla.io/v1
kind: StaticNat
metadata: {name: server}
spec: {external: 203.0.113.16/30, internal: 10.0.0.16/30, outInterfaces: [wan]}
";

/// Kind, name, specification; the path of the field; a part of the message.
#[rustfmt::skip] // a table
const INVALID: &[(&str, &str, &str, &str, &str)] = &[
    // names and the specification as a whole
    ("Interface", "", "{afPacket: {device: eth9}}", "metadata.name", "a name is required"),
    ("Interface", "a/b", "{afPacket: {device: eth9}}", "metadata.name", "no interface name"),
    ("Route", "Default", "{destination: 10.9.0.0/16, type: blackhole}", "metadata.name", "is no name"),
    ("Vrf", "default", "{}", "metadata.name", "always exists"),
    // interfaces
    ("Interface", "x", "{}", "spec", "set afPacket or vlan"),
    ("Interface", "x", "{afPacket: {device: eth9}, vlan: {parent: lan, id: 5}}", "spec.vlan", "exactly one"),
    ("Interface", "x", "{afPacket: {}}", "spec.afPacket.device", "required"),
    ("Interface", "x", "{afPacket: {device: 'a b'}}", "spec.afPacket.device", "no device name"),
    ("Interface", "x", "{afPacket: {device: eth0}}", "spec.afPacket.device", "already belongs to Interface/lan"),
    ("Interface", "x", "{afPacket: {device: eth9, version: v4}}", "spec.afPacket.version", "v2 and v3"),
    ("Interface", "x", "{afPacket: {device: eth9, queues: 0}}", "spec.afPacket.queues", "1 to 64"),
    ("Interface", "x", "{afPacket: {device: eth9, queues: 65}}", "spec.afPacket.queues", "1 to 64"),
    ("Interface", "x", "{afPacket: {device: eth9}, mtu: 67}", "spec.mtu", "68 to 65535"),
    ("Interface", "x", "{afPacket: {device: eth9}, mtu: 65536}", "spec.mtu", "68 to 65535"),
    ("Interface", "lan", "{afPacket: {device: eth0}, mtu: 1279}", "spec.mtu", "Address/lan6 is IPv6"),
    ("Interface", "x", "{afPacket: {device: eth9}, macAddress: 'x'}", "spec.macAddress", "no Ethernet address"),
    ("Interface", "x", "{afPacket: {device: eth9}, macAddress: '01:00:5e:00:00:01'}", "spec.macAddress", "group address"),
    ("Interface", "x", "{afPacket: {device: eth9}, vrf: blue}", "spec.vrf", "Vrf/blue does not exist"),
    ("Interface", "x", "{afPacket: {device: eth9}, vrf: ''}", "spec.vrf", "a name is required"),
    ("Interface", "x", "{vlan: {parent: lan, id: 5000}}", "spec.vlan.id", "5000 is no VLAN id"),
    ("Interface", "x", "{vlan: {parent: lan}}", "spec.vlan.id", "0 is no VLAN id"),
    ("Interface", "x", "{vlan: {id: 5}}", "spec.vlan.parent", "required"),
    ("Interface", "x", "{vlan: {parent: nowhere, id: 5}}", "spec.vlan.parent", "Interface/nowhere does not exist"),
    ("Interface", "x", "{vlan: {parent: x, id: 5}}", "spec.vlan.parent", "sub-interface itself"),
    ("Interface", "x", "{vlan: {parent: lan.10, id: 5}}", "spec.vlan.parent", "sub-interface itself"),
    ("Interface", "x", "{vlan: {parent: lan, id: 10}}", "spec.vlan.id", "already belongs to Interface/lan.10"),
    ("Interface", "x", "{vlan: {parent: lan, id: 5, outerId: 4095}}", "spec.vlan.outerId", "1 to 4094"),
    ("Interface", "x", "{vlan: {parent: lan, id: 5, outerTpid: dot1q}}", "spec.vlan.outerTpid", "set outerId"),
    ("Interface", "x", "{vlan: {parent: lan, id: 5, outerId: 6, outerTpid: q}}", "spec.vlan.outerTpid", "dot1ad"),
    ("Interface", "x", "{vlan: {parent: lan, id: 5}, mtu: 1500}", "spec.mtu", "the parent lan carries 1400"),
    // addresses
    ("Address", "x", "{address: 10.9.0.1/24}", "spec.interface", "required"),
    ("Address", "x", "{interface: wan}", "spec.address", "required"),
    ("Address", "x", "{interface: nowhere, address: 10.9.0.1/24}", "spec.interface", "Interface/nowhere does not exist"),
    ("Address", "x", "{interface: wan, address: 10.9.0.1}", "spec.address", "no prefix length"),
    ("Address", "x", "{interface: wan, address: 10.9.0.1/33}", "spec.address", "no address with prefix length"),
    ("Address", "x", "{interface: wan, address: 10.9.0.0/24}", "spec.address", "subnet's own address"),
    ("Address", "x", "{interface: wan, address: 10.9.0.255/24}", "spec.address", "broadcast"),
    ("Address", "x", "{interface: wan, address: 224.0.0.5/24}", "spec.address", "multicast"),
    ("Address", "x", "{interface: wan, address: 10.0.0.1/32}", "spec.address", "already the address of Address/lan"),
    ("Address", "x", "{interface: lan, address: 10.0.0.1/16}", "spec.address", "already the address of Address/lan"),
    ("Address", "x", "{interface: wan, address: 10.0.0.77/28}", "spec.address", "overlaps 10.0.0.0/24 of Interface/lan"),
    ("Address", "x", "{interface: wan, address: 10.9.9.9/8}", "spec.address", "overlaps 10.0.0.0/24 of Interface/lan"),
    ("Address", "x", "{interface: wan, address: '2001:db8::2/48'}", "spec.address", "overlaps 2001:db8::/64"),
    ("Address", "x", "{interface: red-side, address: '2001:db8:1::1/64'}", "spec.address", "Interface/red-side has 1000"),
    // routes
    ("Route", "x", "{nextHops: [{via: 192.0.2.2}]}", "spec.destination", "required"),
    ("Route", "x", "{destination: 10.9.0.0, nextHops: [{via: 192.0.2.2}]}", "spec.destination", "no prefix"),
    ("Route", "x", "{destination: 10.9.0.1/16, nextHops: [{via: 192.0.2.2}]}", "spec.destination", "the prefix is 10.9.0.0/16"),
    ("Route", "x", "{destination: 224.0.0.0/8, type: blackhole}", "spec.destination", "multicast"),
    ("Route", "x", "{destination: 0.0.0.0/0, type: blackhole}", "spec.destination", "by Route/default"),
    ("Route", "x", "{destination: 10.0.0.0/24, type: blackhole}", "spec.destination", "connected subnet of Interface/lan"),
    ("Route", "x", "{destination: 10.9.0.0/16, type: nat}", "spec.type", "unicast, blackhole"),
    ("Route", "x", "{destination: 10.9.0.0/16}", "spec.nextHops", "required"),
    ("Route", "x", "{destination: 10.9.0.0/16, type: prohibit, nextHops: [{interface: lan}]}", "spec.nextHops", "has none"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{}]}", "spec.nextHops[0]", "via, interface or both"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{via: 192.0.2.2}, {via: x}]}", "spec.nextHops[1].via", "no IP address"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{via: '2001:db8::2'}]}", "spec.nextHops[0].via", "family"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{via: 192.0.2.1}]}", "spec.nextHops[0].via", "address of ours"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{via: 172.16.0.1}]}", "spec.nextHops[0].via", "no connected subnet"),
    ("Route", "x", "{destination: '2001:db8:9::/48', nextHops: [{via: 'fe80::1'}]}", "spec.nextHops[0].via", "interface is required"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{via: 192.0.2.2, interface: lan}]}", "spec.nextHops[0].via", "no subnet of Interface/lan"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{interface: lan}, {interface: nowhere}]}", "spec.nextHops[1].interface", "Interface/nowhere does not exist"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{interface: red-side}]}", "spec.nextHops[0].interface", "in VRF red"),
    ("Route", "x", "{destination: 10.9.0.0/16, vrf: blue, nextHops: [{interface: lan}]}", "spec.vrf", "Vrf/blue does not exist"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{interface: lan, weight: 256}]}", "spec.nextHops[0].weight", "1 to 255"),
    ("Route", "x", "{destination: 10.9.0.0/16, nextHops: [{interface: lan}, {interface: lan, weight: 2}]}", "spec.nextHops[1]", "twice"),
    // neighbours
    ("Neighbour", "x", "{address: 10.0.0.2, macAddress: '02:00:00:00:00:02'}", "spec.interface", "required"),
    ("Neighbour", "x", "{interface: lan, macAddress: '02:00:00:00:00:02'}", "spec.address", "required"),
    ("Neighbour", "x", "{interface: lan, address: 10.0.0.2}", "spec.macAddress", "required"),
    ("Neighbour", "x", "{interface: lan, address: 10.0.0.2, macAddress: 'ff:ff:ff:ff:ff:ff'}", "spec.macAddress", "group"),
    ("Neighbour", "x", "{interface: no, address: 10.0.0.2, macAddress: '02:00:00:00:00:02'}", "spec.interface", "does not exist"),
    ("Neighbour", "x", "{interface: lan, address: 10.1.0.2, macAddress: '02:00:00:00:00:02'}", "spec.address", "no subnet of Interface/lan"),
    ("Neighbour", "x", "{interface: lan, address: 10.0.0.1, macAddress: '02:00:00:00:00:02'}", "spec.address", "address of ours"),
    ("Neighbour", "x", "{interface: lan, address: 10.0.0.9, macAddress: '02:00:00:00:00:02'}", "spec.address", "belongs to Neighbour/printer"),
    ("Neighbour", "x", "{interface: lan, address: 224.0.0.1, macAddress: '02:00:00:00:00:02'}", "spec.address", "multicast"),
    // pools of translation
    ("NatPool", "x", "{}", "spec", "set addresses or interfaceAddress"),
    ("NatPool", "x", "{addresses: [203.0.113.1], interfaceAddress: true}", "spec.interfaceAddress", "exactly one"),
    ("NatPool", "x", "{addresses: [203.0.113.1, nowhere]}", "spec.addresses[1]", "no address, prefix or range"),
    ("NatPool", "x", "{addresses: [203.0.113.9-203.0.113.1]}", "spec.addresses[0]", "write 203.0.113.1-203.0.113.9"),
    ("NatPool", "x", "{addresses: [203.0.113.1/24]}", "spec.addresses[0]", "the prefix is 203.0.113.0/24"),
    ("NatPool", "x", "{addresses: [203.0.113.1, '2001:db8:2::1']}", "spec.addresses[1]", "a pool for each family"),
    ("NatPool", "x", "{addresses: [203.0.113.1, 203.0.113.0/29]}", "spec.addresses[1]", "overlaps spec.addresses[0]"),
    ("NatPool", "x", "{addresses: [224.0.0.1]}", "spec.addresses[0]", "multicast"),
    ("NatPool", "x", "{addresses: [203.0.113.1], ports: {first: 0, last: 9}}", "spec.ports", "0 is no port"),
    ("NatPool", "x", "{addresses: [203.0.113.1], ports: {first: 9}}", "spec.ports", "0 is no port"),
    ("NatPool", "x", "{addresses: [203.0.113.1], ports: {first: 9, last: 65536}}", "spec.ports", "65536 is no port"),
    ("NatPool", "x", "{addresses: [203.0.113.1], ports: {first: 9, last: 8}}", "spec.ports", "ends before it begins"),
    ("NatPool", "x", "{addresses: [203.0.113.1], pairing: both}", "spec.pairing", "paired and arbitrary"),
    ("NatPool", "x", "{addresses: [203.0.113.1], vrf: blue}", "spec.vrf", "Vrf/blue does not exist"),
    ("NatPool", "x", "{addresses: [203.0.113.1, 198.51.100.40-198.51.100.50]}", "spec.addresses[1]", "overlaps 198.51.100.32-198.51.100.40 of NatPool/shared (spec.addresses[1])"),
    ("NatPool", "x", "{addresses: [198.51.100.8/29]}", "spec.addresses[0]", "of NatPool/shared"),
    ("NatPool", "red", "{addresses: [198.51.100.4]}", "spec.addresses[0]", "of NatPool/shared"),
    ("NatPool", "x", "{addresses: [203.0.113.18]}", "spec.addresses[0]", "overlaps 203.0.113.16-203.0.113.19 of StaticNat/server (spec.external)"),
    ("NatPool", "x", "{interfaceAddress: true}", "spec.interfaceAddress", "NatPool/masquerade has the same addresses"),
    ("NatPool", "x", "{addresses: [192.0.2.1]}", "spec.addresses[0]", "which NatPool/masquerade gives out"),
    ("NatPool", "x", "{addresses: [192.0.2.128/25], ports: {first: 50000, last: 50001}}", "spec.addresses[0]", "192.0.2.255 is the broadcast address of the subnet 192.0.2.0/24"),
    ("NatPool", "x", "{addresses: ['2001:db8::/60'], ports: {first: 50000, last: 50001}}", "spec.addresses[0]", "covers the subnet 2001:db8::/64 of Interface/lan"),
    // rules of translation
    ("NatRule", "x", "{}", "spec", "set pool or exempt"),
    ("NatRule", "x", "{pool: shared, exempt: true}", "spec.exempt", "exactly one"),
    ("NatRule", "x", "{pool: nowhere}", "spec.pool", "NatPool/nowhere does not exist"),
    ("NatRule", "x", "{pool: red}", "spec.pool", "NatPool/red is in VRF red"),
    ("NatRule", "x", "{pool: A}", "spec.pool", "is no name"),
    ("NatRule", "x", "{exempt: true, vrf: blue, outInterfaces: [wan]}", "spec.vrf", "Vrf/blue does not exist"),
    ("NatRule", "x", "{exempt: true, outInterfaces: [wan, nowhere]}", "spec.outInterfaces[1]", "Interface/nowhere does not exist"),
    ("NatRule", "x", "{exempt: true, outInterfaces: [red-side]}", "spec.outInterfaces[0]", "Interface/red-side is in VRF red"),
    ("NatRule", "x", "{exempt: true, outInterfaces: [wan, wan]}", "spec.outInterfaces[1]", "is there twice"),
    ("NatRule", "x", "{exempt: true, sources: [10.0.0.1/8]}", "spec.sources[0]", "the prefix is 10.0.0.0/8"),
    ("NatRule", "x", "{exempt: true, destinations: [10.0.0.0/8, x]}", "spec.destinations[1]", "no prefix"),
    ("NatRule", "x", "{exempt: true, notDestinations: [10.0.0.0/33]}", "spec.notDestinations[0]", "no prefix"),
    ("NatRule", "x", "{exempt: true, sources: [10.0.0.0/8], destinations: ['2001:db8::/32']}", "spec.destinations", "different families"),
    ("NatRule", "x", "{pool: shared, sources: [10.0.0.0/8, '2001:db8::/32']}", "spec.sources[1]", "not of the family"),
    ("NatRule", "x", "{exempt: true, protocol: quic}", "spec.protocol", "it must be TCP"),
    // forwarded ports
    ("PortForward", "x", "{protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec", "set address or interface"),
    ("PortForward", "x", "{address: 192.0.2.1, interface: wan, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.interface", "exactly one"),
    ("PortForward", "x", "{address: x, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.address", "no IP address"),
    ("PortForward", "x", "{address: 'fe80::1', protocol: tcp, port: 22, targetAddress: '2001:db8::9'}", "spec.address", "on its link only"),
    ("PortForward", "x", "{interface: nowhere, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.interface", "Interface/nowhere does not exist"),
    ("PortForward", "x", "{interface: red-side, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.interface", "Interface/red-side is in VRF red"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22, targetAddress: '2001:db8::9'}", "spec.interface", "no address of the family of 2001:db8::9"),
    ("PortForward", "x", "{interface: wan, port: 22, targetAddress: 10.0.0.9}", "spec.protocol", "required"),
    ("PortForward", "x", "{interface: wan, protocol: '0', port: 22, targetAddress: 10.0.0.9}", "spec.protocol", "it must be TCP"),
    ("PortForward", "x", "{interface: wan, protocol: ICMPv6, targetAddress: 10.0.0.9}", "spec.protocol", "is of IPv6"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, targetAddress: 10.0.0.9}", "spec.port", "set port or ports"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 0, targetAddress: 10.0.0.9}", "spec.port", "0 is no port"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 70000, targetAddress: 10.0.0.9}", "spec.port", "70000 is no port"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 1, ports: {first: 1, last: 2}, targetAddress: 10.0.0.9}", "spec.ports", "exactly one"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, ports: {first: 9, last: 2}, targetAddress: 10.0.0.9}", "spec.ports", "ends before it begins"),
    ("PortForward", "x", "{interface: wan, protocol: '47', port: 9, targetAddress: 10.0.0.9}", "spec.port", "protocol 47 has no ports"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22, targetAddress: 10.0.0.9, targetPort: 0}", "spec.targetPort", "0 is no port"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, ports: {first: 1, last: 100}, targetAddress: 10.0.0.9, targetPort: 65437}", "spec.targetPort", "there are no 100 ports up to 65535"),
    ("PortForward", "x", "{interface: wan, protocol: sctp, port: 22, targetAddress: 10.0.0.9, targetPort: 23}", "spec.targetPort", "SCTP"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22}", "spec.targetAddress", "required"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22, targetAddress: 127.0.0.1}", "spec.targetAddress", "loopback"),
    ("PortForward", "x", "{address: 192.0.2.1, protocol: tcp, port: 22, targetAddress: '2001:db8::9'}", "spec.targetAddress", "not of the family of 192.0.2.1"),
    ("PortForward", "x", "{address: '2001:db8::1', protocol: tcp, port: 22, targetAddress: '2001:db8:9::9'}", "spec.targetAddress", "in no connected subnet of VRF default"),
    ("PortForward", "x", "{vrf: red, address: 203.0.113.77, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.targetAddress", "in no connected subnet of VRF red"),
    ("PortForward", "x", "{vrf: blue, address: 203.0.113.77, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.vrf", "Vrf/blue does not exist"),
    ("PortForward", "x", "{interface: wan, protocol: TCP, port: 8010, targetAddress: 10.0.0.9}", "spec.port", "overlaps port 8000-8010 of PortForward/web"),
    ("PortForward", "x", "{address: 192.0.2.1, protocol: TCP, ports: {first: 7000, last: 9000}, targetAddress: 10.0.0.9}", "spec.ports", "TCP port 7000-9000 to 192.0.2.1 overlaps"),
    ("PortForward", "x", "{address: 203.0.113.17, protocol: tcp, port: 22, targetAddress: 10.0.0.9}", "spec.address", "of StaticNat/server"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22, targetAddress: 10.0.0.9, sourcePool: nowhere}", "spec.sourcePool", "NatPool/nowhere does not exist"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22, targetAddress: 10.0.0.9, sourcePool: red}", "spec.sourcePool", "NatPool/red is in VRF red"),
    ("PortForward", "x", "{interface: wan, protocol: tcp, port: 22, targetAddress: 10.0.0.9, sourcePool: masquerade}", "spec.sourcePool", "use one with spec.addresses"),
    ("PortForward", "x", "{address: '2001:db8::1', protocol: tcp, port: 22, targetAddress: '2001:db8::9', sourcePool: shared}", "spec.sourcePool", "not of the family of 2001:db8::9"),
    // one to one
    ("StaticNat", "x", "{internal: 10.0.0.32/28}", "spec.external", "required"),
    ("StaticNat", "x", "{external: 203.0.113.32/28}", "spec.internal", "required"),
    ("StaticNat", "x", "{external: 203.0.113.33/28, internal: 10.0.0.32/28}", "spec.external", "the prefix is 203.0.113.32/28"),
    ("StaticNat", "x", "{external: 203.0.113.32/28, internal: 10.0.0.33/28}", "spec.internal", "the prefix is 10.0.0.32/28"),
    ("StaticNat", "x", "{external: 203.0.113.32/28, internal: 10.0.0.32/29}", "spec.internal", "one to one needs equal lengths"),
    ("StaticNat", "x", "{external: 203.0.113.32/28, internal: '2001:db8::/28'}", "spec.internal", "has host bits"),
    ("StaticNat", "x", "{external: 203.0.113.32/32, internal: '2001:db8::/32'}", "spec.internal", "not of the family of 203.0.113.32/32"),
    ("StaticNat", "x", "{external: 10.0.0.32/28, internal: 10.0.0.32/28}", "spec.internal", "external too"),
    ("StaticNat", "x", "{external: 0.0.0.0/0, internal: 10.0.0.0/8}", "spec.external", "this network"),
    ("StaticNat", "x", "{vrf: red, external: 203.0.113.32, internal: 10.0.0.9}", "spec.internal", "in no connected subnet of VRF red"),
    ("StaticNat", "x", "{external: 203.0.113.16, internal: 10.0.0.9}", "spec.external", "overlaps 203.0.113.16-203.0.113.19 of StaticNat/server"),
    ("StaticNat", "x", "{external: 198.51.100.35, internal: 10.0.0.9}", "spec.external", "of NatPool/shared (spec.addresses[1])"),
    ("StaticNat", "x", "{external: 203.0.113.32, internal: 10.0.0.17}", "spec.internal", "overlaps 10.0.0.16/30 of StaticNat/server"),
    ("StaticNat", "x", "{external: 192.0.2.1, internal: 10.0.0.9}", "spec.external", "would not be reached any more"),
    ("StaticNat", "x", "{external: 203.0.113.32, internal: 10.0.0.9, outInterfaces: [nowhere]}", "spec.outInterfaces[0]", "Interface/nowhere does not exist"),
    // what translation uses
    ("Address", "x", "{interface: wan, address: 198.51.100.41/24}", "spec.address", "198.51.100.0 is the first of the subnet"),
];

/// What the text alone shows, before any daemon is asked: the text; line, object, field; a part of the message.
#[rustfmt::skip] // a table of texts
const UNREADABLE: &[(&str, Option<usize>, &str, &str, &str)] = &[
    ("apiVersion: oncilla.io/v1\nmetadata: {name: x}\n", None, "x", "kind", "required: one of"),
    ("apiVersion: oncilla.io/v1\nkind: Port\nmetadata: {name: x}\n", None, "Port/x", "kind", "\"Port\" is no kind"),
    ("kind: Vrf\nmetadata: {name: x}\nspec:\n  colour: red\n", Some(4), "Vrf/x", "spec.colour", "unknown field `colour`"),
    ("kind: Route\nmetadata: {name: x}\nspec:\n  nextHops:\n  - via: 10.0.0.1\n  - wia: x\n", Some(6), "Route/x", "spec.nextHops[1].wia", "unknown field `wia`"),
    ("kind: Interface\nmetadata: {name: x}\nspec: {mtu: fifteen}\n", Some(3), "Interface/x", "spec.mtu", "\"fifteen\": invalid"),
    ("kind: Interface\nmetadata: {name: x}\nspec: {mtu: -1}\n", Some(3), "Interface/x", "spec.mtu", "-1: invalid"),
    ("kind: Interface\nmetadata: {name: x}\nspec: {adminUp: yes}\n", Some(3), "Interface/x", "spec.adminUp", "\"yes\": invalid bool"),
    ("kind: Interface\nmetadata: {name: x}\nspec: {afPacket: [1]}\n", Some(3), "Interface/x", "spec.afPacket", ""),
    ("kind: Vrf\nmetadata: {nam: x}\n", Some(2), "Vrf", "metadata.nam", "unknown field `nam`"),
    ("kind: Vrf\nmetadata: {name: x}\nstatus: {}\n", Some(3), "Vrf/x", "status", "unknown field `status`"),
    ("kind: Vrf\nmetadata: {name: x}\nmetadata: {name: y}\n", Some(3), "", "", "is there twice"),
    ("kind: Vrf\nmetadata: {name: x\n", None, "", "metadata", "unclosed"),
    ("- kind: Vrf\n", Some(1), "", "", ""),
    ("just text\n", Some(1), "", "", ""),
    ("kind: NatPool\nmetadata: {name: x}\nspec:\n  interfaceAddress: true\n  blockSize: 64\n", Some(5), "NatPool/x", "spec.blockSize", "unknown field `blockSize`"),
    ("kind: PortForward\nmetadata: {name: x}\nspec: {ports: {from: 1}}\n", Some(3), "PortForward/x", "spec.ports.from", "unknown field `from`"),
    ("kind: NatRule\nmetadata: {name: x}\nspec: {order: first}\n", Some(3), "NatRule/x", "spec.order", "\"first\": invalid"),
    ("kind: StaticNat\nmetadata: {name: x}\nspec: {outInterfaces: wan}\n", Some(3), "StaticNat/x", "spec.outInterfaces", ""),
    ("kind: List\nitems:\n- kind: Vrf\n  metadata: {name: x}\n  spec: {a: 1}\n", None, "Vrf/x", "items[0].spec.a", "unknown field"),
];

fn objects(text: &str) -> Vec<v1::Object> {
    let documents = yaml::load(text, "test.yaml").expect("is well-formed");
    documents
        .into_iter()
        .map(|document| document.object)
        .collect()
}

async fn desired() -> (Desired, RecordingDataplane) {
    let dataplane = RecordingDataplane::default();
    let (desired, _) = Desired::start(
        Box::new(MemoryStore::default()),
        Box::new(dataplane.clone()),
    )
    .expect("starts");
    (desired, dataplane)
}

fn upsert(objects: Vec<v1::Object>) -> v1::ApplyRequest {
    v1::ApplyRequest {
        upserts: objects,
        ..Default::default()
    }
}

#[tokio::test]
async fn every_invalid_object_is_refused_with_its_field() {
    let (desired, dataplane) = desired().await;
    desired
        .apply(upsert(objects(BASE)))
        .await
        .expect("the base is valid");
    let before = desired.hub().view();
    let live = dataplane.live();
    for (kind, name, spec, field, part) in INVALID {
        let text = format!(
            "apiVersion: oncilla.io/v1\nkind: {kind}\nmetadata: {{name: '{name}'}}\nspec: {spec}\n"
        );
        // With a good object beside it, which has to stay out too.
        let mut transaction =
            objects("apiVersion: oncilla.io/v1\nkind: Vrf\nmetadata: {name: good}\n");
        transaction.extend(objects(&text));
        let refusal = desired.apply(upsert(transaction)).await.expect_err(&text);
        assert_eq!(refusal.code, tonic::Code::InvalidArgument, "{text}");
        assert_eq!(
            refusal.errors.len(),
            1,
            "one error for one mistake in {text}: {refusal:?}"
        );
        let error = &refusal.errors[0];
        assert_eq!(error.object, Some(key(kind, name)), "{text}: {error}");
        assert_eq!(error.field, *field, "{text}: {error}");
        assert!(error.message.contains(part), "{text}: {error}");
        let after = desired.hub().view();
        assert_eq!(
            (after.generation, &after.objects),
            (before.generation, &before.objects)
        );
        assert_eq!(dataplane.live(), live);
    }
    assert_eq!(
        dataplane.0.lock().unwrap().published,
        [0, 1],
        "the restore and the base, nothing else"
    );
}

#[tokio::test]
async fn all_errors_of_a_transaction_come_at_once() {
    let (desired, _) = desired().await;
    let text = "
apiVersion: oncilla.io/v2
kind: Interface
metadata: {name: x}
spec: {vlan: {id: 5000}, mtu: 5, macAddress: z}
---
apiVersion: oncilla.io/v1
kind: Route
metadata: {name: y}
spec: {destination: nowhere}
";
    let refusal = desired
        .apply(upsert(objects(text)))
        .await
        .expect_err("is wrong");
    let fields: Vec<_> = refusal
        .errors
        .iter()
        .map(|error| error.field.as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "apiVersion",
            "spec.vlan.parent",
            "spec.vlan.id",
            "spec.mtu",
            "spec.macAddress",
            "spec.destination",
            "spec.nextHops"
        ]
    );
}

#[test]
fn protobuf_can_be_wrong_where_yaml_cannot() {
    let vrf = v1::VrfSpec::default();
    let mut object = v1::Object::new("x", v1::object::Spec::Vrf(vrf));
    object.kind = "Route".into();
    let field = |object: &v1::Object| {
        convert::to_model(object)
            .expect_err("is wrong")
            .first()
            .expect("an error")
            .field
            .clone()
    };
    assert_eq!(field(&object), "spec");
    object.kind = "Vrf".into();
    object.spec = None;
    assert_eq!(field(&object), "spec");
    object.kind = String::new();
    assert_eq!(field(&object), "kind");
    object.kind = "Port".into();
    assert_eq!(field(&object), "kind");
    object.api_version = String::new();
    assert_eq!(field(&object), "apiVersion");
    object.metadata = None;
    let errors = convert::to_model(&object).expect_err("is wrong");
    assert!(
        errors
            .iter()
            .all(|error| error.field != "metadata.name" || error.message.contains("required"))
    );
    for order in [f64::NAN, f64::INFINITY] {
        let spec = v1::NatRuleSpec {
            order: Some(order),
            exempt: true,
            ..Default::default()
        };
        let rule = v1::Object::new("x", v1::object::Spec::NatRule(spec));
        assert_eq!(field(&rule), "spec.order");
    }
    let hops = v1::NextHop {
        interface: Some("lan".into()),
        ..Default::default()
    };
    let spec = v1::RouteSpec {
        destination: "10.0.0.0/8".into(),
        next_hops: vec![hops; 65],
        ..Default::default()
    };
    assert_eq!(
        field(&v1::Object::new("x", v1::object::Spec::Route(spec))),
        "spec.nextHops"
    );
}

#[test]
fn unreadable_text_is_refused_with_line_and_field() {
    for (text, line, object, field, part) in UNREADABLE {
        let errors = yaml::load(text, "test.yaml").expect_err(text);
        assert_eq!(errors.len(), 1, "{text}");
        let error = &errors[0];
        assert!(line.is_none() || error.line == *line, "{text}: {error}");
        assert_eq!(
            (error.object.as_str(), error.field.as_str()),
            (*object, *field),
            "{text}: {error}"
        );
        assert!(error.message.contains(part), "{text}: {error}");
    }
    let text = "# nothing\n---\nkind: Vrf\nmetadata: {name: a}\n---\n\n# a comment\nkind: Vrf\nmetadata: {name: b}\nspec: {x: 1}\n";
    let errors = yaml::load(text, "dir/two.yaml").expect_err("is wrong");
    assert_eq!((errors[0].document, errors[0].line), (2, Some(10)));
    assert!(
        errors[0]
            .to_string()
            .starts_with("dir/two.yaml:10: document 2: Vrf/b: spec.x: unknown field `x`")
    );
}

fn any_text() -> BoxedStrategy<String> {
    prop_oneof![
        Just("yes".to_owned()),
        Just("null".to_owned()),
        Just("0x10".to_owned()),
        Just("1e3".to_owned()),
        Just("- a: b # c\n---\n".to_owned()),
        Just("02:00:00:00:00:01".to_owned()),
        "\\PC{0,20}",
        "[ -~\n\t]{0,20}",
    ]
    .boxed()
}

fn any_spec() -> BoxedStrategy<v1::object::Spec> {
    use v1::object::Spec;
    let optional = || proptest::option::of(any_text());
    let port = (
        any_text(),
        optional(),
        any::<Option<u32>>(),
        any::<Option<bool>>(),
    )
        .prop_map(|(device, version, queues, offloads)| v1::AfPacketSpec {
            device,
            version,
            queues,
            offloads,
            qdisc_bypass: None,
            gro: None,
        });
    let vlan = (any_text(), any::<u32>(), any::<Option<u32>>(), optional()).prop_map(
        |(parent, id, outer_id, outer_tpid)| v1::VlanSpec {
            parent,
            id,
            outer_id,
            outer_tpid,
        },
    );
    let interface = (
        proptest::option::of(port),
        proptest::option::of(vlan),
        any::<Option<u32>>(),
        optional(),
        any::<Option<bool>>(),
        optional(),
        any::<bool>(),
    )
        .prop_map(
            |(af_packet, vlan, mtu, mac_address, admin_up, vrf, proxy_arp)| {
                Spec::Interface(v1::InterfaceSpec {
                    af_packet,
                    vlan,
                    mtu,
                    mac_address,
                    admin_up,
                    vrf,
                    proxy_arp,
                    redirects: false,
                })
            },
        );
    let hop =
        (optional(), optional(), any::<Option<u32>>()).prop_map(|(via, interface, weight)| {
            v1::NextHop {
                via,
                interface,
                weight,
            }
        });
    let route = (
        optional(),
        any_text(),
        optional(),
        proptest::collection::vec(hop, 0..3),
    )
        .prop_map(|(vrf, destination, kind, next_hops)| {
            Spec::Route(v1::RouteSpec {
                vrf,
                destination,
                r#type: kind,
                next_hops,
            })
        });
    let address = (any_text(), any_text())
        .prop_map(|(interface, address)| Spec::Address(v1::AddressSpec { interface, address }));
    let neighbour =
        (any_text(), any_text(), any_text()).prop_map(|(interface, address, mac_address)| {
            Spec::Neighbour(v1::NeighbourSpec {
                interface,
                address,
                mac_address,
            })
        });
    let vrf = optional().prop_map(|description| Spec::Vrf(v1::VrfSpec { description }));
    let texts = || proptest::collection::vec(any_text(), 0..3);
    let ports = || {
        let ports = any::<(u32, u32)>().prop_map(|(first, last)| v1::PortRange { first, last });
        proptest::option::of(ports)
    };
    let pool = (optional(), texts(), any::<bool>(), ports(), optional()).prop_map(
        |(vrf, addresses, interface_address, ports, pairing)| {
            Spec::NatPool(v1::NatPoolSpec {
                vrf,
                addresses,
                interface_address,
                ports,
                pairing,
            })
        },
    );
    let order = proptest::option::of(any::<i32>().prop_map(f64::from));
    let rule = (
        order,
        texts(),
        texts(),
        texts(),
        texts(),
        optional(),
        optional(),
        any::<bool>(),
    )
        .prop_map(
            |(
                order,
                out_interfaces,
                sources,
                destinations,
                not_destinations,
                protocol,
                pool,
                exempt,
            )| {
                Spec::NatRule(v1::NatRuleSpec {
                    order,
                    vrf: None,
                    out_interfaces,
                    sources,
                    destinations,
                    not_destinations,
                    protocol,
                    pool,
                    exempt,
                })
            },
        );
    let forward = (
        optional(),
        optional(),
        prop_oneof![any_text(), Just("tcp".to_owned())],
        any::<Option<u32>>(),
        ports(),
        prop_oneof![any_text(), Just("10.0.0.1".to_owned())],
        any::<Option<u32>>(),
        optional(),
    )
        .prop_map(
            |(
                address,
                interface,
                protocol,
                port,
                ports,
                target_address,
                target_port,
                source_pool,
            )| {
                Spec::PortForward(v1::PortForwardSpec {
                    vrf: None,
                    address,
                    interface,
                    protocol,
                    port,
                    ports,
                    target_address,
                    target_port,
                    source_pool,
                })
            },
        );
    let one_to_one = (optional(), any_text(), any_text(), texts()).prop_map(
        |(vrf, external, internal, out_interfaces)| {
            Spec::StaticNat(v1::StaticNatSpec {
                vrf,
                external,
                internal,
                out_interfaces,
            })
        },
    );
    let translation = prop_oneof![pool, rule, forward, one_to_one];
    prop_oneof![interface, route, address, neighbour, vrf, translation].boxed()
}

fn any_object() -> impl Strategy<Value = v1::Object> {
    let labels = proptest::collection::btree_map(any_text(), any_text(), 0..3);
    (any_text(), labels, any_spec()).prop_map(|(name, labels, spec)| {
        let mut object = v1::Object::new(name, spec);
        object.metadata.get_or_insert_default().labels = labels;
        object
    })
}

proptest! {
    /// What is written is read back, however odd its strings, as YAML and as JSON.
    #[test]
    fn text_round_trip(objects in proptest::collection::vec(any_object(), 0..4)) {
        let read = |text: &str| {
            yaml::load(text, "-")
                .map(|documents| documents.into_iter().map(|document| document.object).collect::<Vec<_>>())
                .map_err(|errors| format!("{}\n{text}", errors[0]))
        };
        let text = yaml::to_yaml(&objects).expect("writes");
        prop_assert_eq!(read(&text), Ok(objects.clone()), "{}", text);
        let text = yaml::to_json(&objects).expect("writes");
        prop_assert_eq!(read(&text), Ok(objects), "{}", text);
    }

    /// Any object is taken or refused with at least one error, and what is taken alone keeps its kind and name.
    #[test]
    fn conversion_never_panics(object in any_object()) {
        match convert::to_model(&object) {
            Ok((typed, spec)) => {
                prop_assert_eq!(convert::from_key(&typed), object.key());
                prop_assert_eq!(spec.kind(), typed.kind);
            }
            Err(errors) => prop_assert!(!errors.is_empty()),
        }
    }

    /// Any bytes are objects or errors.
    #[test]
    fn random_text_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = yaml::load(&String::from_utf8_lossy(&bytes), "-");
    }

    /// The same for what nearly is an object.
    #[test]
    fn mutated_text_never_panics(
        at in 0..BASE.len(), length in 0usize..40, insert in "[-:{}\\[\\],&*!|>'\"%@`?#a-z0-9 \n\t]{0,12}"
    ) {
        let end = (at + length).min(BASE.len());
        let text = format!("{}{insert}{}", &BASE[..at], &BASE[end..]);
        if let Err(errors) = yaml::load(&text, "-") {
            prop_assert!(!errors.is_empty());
        }
    }

    /// Any bytes as protobuf are refused or converted.
    #[test]
    fn random_protobuf_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(object) = <v1::Object as prost::Message>::decode(bytes.as_slice()) {
            let _ = convert::to_model(&object);
        }
    }
}

/// The error names a document of its own where several are wrong.
#[test]
fn every_document_has_its_error() {
    let errors = yaml::load(
        "kind: A\n---\nkind: Vrf\nmetadata: {name: x}\n--- {kind: B}\n...\nkind: C\n",
        "f",
    )
    .expect_err("wrong");
    let found: Vec<_> = errors
        .iter()
        .map(|error| (error.document, error.object.as_str()))
        .collect();
    assert_eq!(found, [(1, "A"), (3, "B"), (4, "C")]);
    assert!(Arc::new(yaml::load("# nothing\n---\n...\n", "f").expect("is empty")).is_empty());
}
