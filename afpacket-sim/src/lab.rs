//! Builds a lab from its topology.

use std::net::IpAddr;
use std::time::Duration;

use crate::offload::{Offloads, set_offloads};
use crate::rtnl::{VethEnd, default_route};
use crate::shim::{Place, Shim, ShimOptions, ShimStatistics};
use crate::topology::{Attachment, Device, Host, HostInterface, Port, Tag, Topology};
use crate::{MacAddress, Namespace, Result, SimError};

/// Settings of a lab that are not part of its topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabOptions {
    /// Where VLAN shims work; when absent, in the kernel where that is allowed.
    pub shim_place: Option<Place>,
    /// How long the thread of a VLAN shim looks for more frames before it sleeps; see [`ShimOptions::busy_poll`].
    pub shim_busy_poll: Duration,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            shim_place: None,
            shim_busy_poll: ShimOptions::DEFAULT_BUSY_POLL,
        }
    }
}

/// A running lab. Dropping it ends its threads; its namespaces vanish with their last user.
pub struct Lab {
    topology: Topology,
    // Before the namespaces, so that the shims stop while their devices are there.
    shims: Vec<LabShim>,
    router: Option<Namespace>,
    hosts: Vec<Namespace>,
    kernel_forwards: bool,
}

struct LabShim {
    host: String,
    shim: Shim,
}

/// How long a new link or address may take to come up.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
/// Names of a shim's devices.
const SHIM_HOST_DEVICE: &str = "host";
const SHIM_TRUNK_DEVICE: &str = "trunk";

/// Settings of every namespace: no traffic that nobody asked for, no limits on ICMP answers, nothing remembered
/// from one test to the next.
const QUIET: [(&str, &str); 16] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/autoconf", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv6/conf/all/router_solicitations", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_msgs_per_sec", "1000000"),
    ("net/ipv4/icmp_msgs_burst", "1000000"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
];

/// Settings of a namespace whose kernel stack is to stay out of the way: shims, and the router.
const PASSIVE: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
];

impl Lab {
    /// Builds the lab with default options.
    ///
    /// The router's ports are up and have no addresses: they are for the dataplane, or for
    /// [`Lab::enable_kernel_forwarding`].
    ///
    /// # Errors
    /// [`SimError::Topology`] when the topology does not fit together, [`SimError::System`] when the kernel refuses
    /// ([`SimError::is_permission`] tells whether for lack of privilege).
    pub fn build(topology: &Topology) -> Result<Self> {
        Self::build_with(topology, &LabOptions::default())
    }

    /// Builds the lab.
    ///
    /// # Errors
    /// As [`Lab::build`].
    pub fn build_with(topology: &Topology, options: &LabOptions) -> Result<Self> {
        topology.validate()?;
        let router = match &topology.router {
            Some(router) => Some(passive_namespace(&router.name)?),
            None => None,
        };
        let hosts = topology
            .hosts
            .iter()
            .map(|host| {
                let namespace = Namespace::new(&host.name)?;
                namespace.set_optional_sysctls(&QUIET)?;
                Ok(namespace)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut lab = Self {
            topology: topology.clone(),
            shims: Vec::new(),
            router,
            hosts,
            kernel_forwards: false,
        };
        lab.connect(options)?;
        for (host, namespace) in lab.topology.hosts.iter().zip(&lab.hosts) {
            configure_host(host, namespace)?;
        }
        for namespace in &lab.hosts {
            namespace.wait_addresses_answer(LINK_PATIENCE)?;
        }
        Ok(lab)
    }

    /// What it was built from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The namespace of the host, or of the router, named `name`.
    ///
    /// # Errors
    /// [`SimError::Unknown`] with the names there are.
    pub fn namespace(&self, name: &str) -> Result<&Namespace> {
        self.namespaces()
            .find(|namespace| namespace.name() == name)
            .ok_or_else(|| SimError::Unknown {
                kind: "namespace",
                name: name.to_owned(),
                known: self
                    .namespaces()
                    .map(Namespace::name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// The router's namespace.
    ///
    /// # Errors
    /// [`SimError::Unknown`] when the topology has no router.
    pub fn router(&self) -> Result<&Namespace> {
        self.router.as_ref().ok_or_else(|| SimError::Unknown {
            kind: "router",
            name: "router".to_owned(),
            known: "hosts only".to_owned(),
        })
    }

    /// The namespaces of hosts and router.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.hosts.iter().chain(&self.router)
    }

    /// The VLAN shims, with the name of the host behind each.
    pub fn shims(&self) -> impl Iterator<Item = (&str, &Shim)> {
        self.shims
            .iter()
            .map(|shim| (shim.host.as_str(), &shim.shim))
    }

    /// What the VLAN shims have done, with the name of the host behind each.
    pub fn shim_statistics(&self) -> Vec<(&str, ShimStatistics)> {
        self.shims()
            .map(|(host, shim)| (host, shim.statistics()))
            .collect()
    }

    /// Sets the offloads of all interfaces of all hosts.
    ///
    /// # Errors
    /// As [`set_offloads`].
    pub fn set_host_offloads(&self, offloads: Offloads) -> Result<()> {
        for (host, namespace) in self.topology.hosts.iter().zip(&self.hosts) {
            for interface in &host.interfaces {
                set_offloads(namespace, &interface.name, offloads)?;
            }
        }
        Ok(())
    }

    /// Makes the kernel of the router's namespace forward, with the addresses and neighbours of the ports:
    /// the comparison for a dataplane. VLAN sub-interfaces are left out: the kernel may not have them.
    ///
    /// # Errors
    /// [`SimError::Unknown`] without a router, [`SimError::System`] when the kernel refuses.
    pub fn enable_kernel_forwarding(&mut self) -> Result<()> {
        if self.kernel_forwards {
            return Ok(());
        }
        let router = self.router()?;
        router.set_sysctls(&[
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        let mut rtnl = router.rtnl()?;
        for port in self.topology.ports() {
            for address in &port.addresses {
                rtnl.add_address(&port.name, *address)?;
            }
            for (ip, mac) in &port.device.neighbours {
                rtnl.set_neighbour(&port.name, *ip, *mac)?;
            }
        }
        router.wait_addresses_answer(LINK_PATIENCE)?;
        self.kernel_forwards = true;
        self.forget_learnt()
    }

    /// Ends the kernel's forwarding, so that a dataplane can take the ports over; the hosts forget what they learnt
    /// from it (neighbours, path MTUs).
    ///
    /// # Errors
    /// As [`Lab::enable_kernel_forwarding`].
    pub fn disable_kernel_forwarding(&mut self) -> Result<()> {
        if !self.kernel_forwards {
            return Ok(());
        }
        let router = self.router()?;
        let mut rtnl = router.rtnl()?;
        for port in self.topology.ports() {
            rtnl.flush_addresses(&port.name)?;
        }
        rtnl.flush_neighbours()?;
        router.set_sysctls(&PASSIVE)?;
        router.set_sysctls(&[("net/ipv6/conf/all/forwarding", "0")])?;
        self.kernel_forwards = false;
        self.forget_learnt()
    }

    /// Makes all hosts forget resolved neighbours and learnt path MTUs. Needed whenever another router with
    /// other Ethernet addresses takes the ports over.
    ///
    /// # Errors
    /// [`SimError::System`] when the kernel refuses.
    pub fn forget_learnt(&self) -> Result<()> {
        for namespace in &self.hosts {
            namespace.rtnl()?.flush_neighbours()?;
            namespace.set_optional_sysctls(&[
                ("net/ipv4/route/flush", "1"),
                ("net/ipv6/route/flush", "1"),
            ])?;
        }
        Ok(())
    }

    /// Makes all links. A link has two ends; the end of a host behind a VLAN is its shim's trunk.
    fn connect(&mut self, options: &LabOptions) -> Result<()> {
        let mut number = Numbers::default();
        let mut links = Vec::new();
        let mut open_wires: Vec<(String, End)> = Vec::new();
        let mut shims = Vec::new();
        for (host, namespace) in self.topology.hosts.iter().zip(&self.hosts) {
            for interface in &host.interfaces {
                let own = End {
                    namespace: namespace.clone(),
                    veth: number.veth(&interface.name, &interface.device),
                };
                let end = match interface.tag {
                    None => own,
                    Some(tag) => {
                        let (inner, trunk) = shim_ends(host, interface, tag, &mut number)?;
                        shims.push((host.name.clone(), inner.namespace.clone(), tag));
                        links.push((own, inner));
                        trunk
                    }
                };
                match &interface.attachment {
                    Attachment::Port(name) => {
                        let port = self.topology.ports().iter().find(|port| port.name == *name);
                        let port =
                            port.unwrap_or_else(|| unreachable!("validated: `{name}` exists"));
                        links.push((end, port_end(self.router()?, port, &mut number)));
                    }
                    Attachment::Wire(name) => {
                        match open_wires.iter().position(|(open, _)| open == name) {
                            Some(index) => links.push((open_wires.swap_remove(index).1, end)),
                            None => open_wires.push((name.clone(), end)),
                        }
                    }
                }
            }
        }
        for (here, there) in &links {
            connect_ends(here, there)?;
        }
        for end in links.iter().flat_map(|(here, there)| [here, there]) {
            end.namespace
                .rtnl()?
                .wait_operational(&end.veth.device, LINK_PATIENCE)?;
        }
        for (host, namespace, tag) in shims {
            let options = ShimOptions {
                tag,
                place: options.shim_place,
                busy_poll: options.shim_busy_poll,
            };
            let shim = Shim::start(&namespace, SHIM_HOST_DEVICE, SHIM_TRUNK_DEVICE, options)?;
            self.shims.push(LabShim { host, shim });
        }
        Ok(())
    }
}

/// One end of a link that is to be made.
struct End {
    namespace: Namespace,
    veth: VethEnd,
}

/// Numbers the devices of a lab, for Ethernet addresses that are the same in every run.
#[derive(Default)]
struct Numbers(u16);

impl Numbers {
    fn veth(&mut self, name: &str, device: &Device) -> VethEnd {
        self.0 += 1;
        let [high, low] = self.0.to_be_bytes();
        // Locally administered, unicast.
        let numbered = MacAddress([0x02, 0, 0, 0, high, low]);
        VethEnd {
            device: name.to_owned(),
            mac: Some(device.mac.unwrap_or(numbered)),
            mtu: device.mtu,
            queues: device.queues,
            // Different for all; 1 is the loopback device.
            index: Some(u32::from(self.0) + 1),
        }
    }
}

fn passive_namespace(name: &str) -> Result<Namespace> {
    let namespace = Namespace::new(name)?;
    namespace.set_optional_sysctls(&QUIET)?;
    namespace.set_optional_sysctls(&PASSIVE)?;
    Ok(namespace)
}

fn port_end(router: &Namespace, port: &Port, number: &mut Numbers) -> End {
    let mut veth = number.veth(&port.name, &port.device);
    veth.mtu += port
        .sub_interfaces
        .iter()
        .map(|sub| extra_tag_bytes(sub.tag))
        .max()
        .unwrap_or(0);
    End {
        namespace: router.clone(),
        veth,
    }
}

/// The ends of a shim: towards its host, and towards the link beyond.
fn shim_ends(
    host: &Host,
    interface: &HostInterface,
    tag: Tag,
    number: &mut Numbers,
) -> Result<(End, End)> {
    let namespace = passive_namespace(&format!("{}-{}", host.name, interface.name))?;
    let device = Device {
        mac: None,
        neighbours: Vec::new(),
        ..interface.device.clone()
    };
    let inner = End {
        namespace: namespace.clone(),
        veth: number.veth(SHIM_HOST_DEVICE, &device),
    };
    let mut trunk = number.veth(SHIM_TRUNK_DEVICE, &device);
    trunk.mtu = (trunk.mtu + extra_tag_bytes(tag)).min(65_535);
    Ok((
        inner,
        End {
            namespace,
            veth: trunk,
        },
    ))
}

/// Bytes by which the MTU of a link has to grow. The kernel makes room for one 802.1Q tag by itself, but for none
/// when the outer tag is of another kind.
fn extra_tag_bytes(tag: Tag) -> u32 {
    if tag.outer.is_some() {
        u32::from(tag.bytes())
    } else {
        0
    }
}

fn connect_ends(here: &End, there: &End) -> Result<()> {
    let mut rtnl = here.namespace.rtnl()?;
    rtnl.add_veth(&here.veth, &there.namespace, &there.veth)?;
    rtnl.set_up(&here.veth.device, true)?;
    there.namespace.rtnl()?.set_up(&there.veth.device, true)
}

fn configure_host(host: &Host, namespace: &Namespace) -> Result<()> {
    let mut rtnl = namespace.rtnl()?;
    for interface in &host.interfaces {
        for address in &interface.addresses {
            rtnl.add_address(&interface.name, *address)?;
        }
        for (ip, mac) in &interface.device.neighbours {
            rtnl.set_neighbour(&interface.name, *ip, *mac)?;
        }
        let default_routes = interface
            .gateways
            .iter()
            .map(|gateway: &IpAddr| (default_route(*gateway), *gateway));
        for (destination, gateway) in default_routes.chain(interface.routes.iter().copied()) {
            rtnl.add_route(destination, gateway)?;
        }
    }
    Ok(())
}
