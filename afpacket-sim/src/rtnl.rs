//! Links, addresses, routes and neighbours of a namespace over netlink (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::cannot;
use crate::topology::Prefix;
use crate::{MacAddress, Namespace, Result, SimError};

/// One end of a veth pair to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// Device name, 1 to 15 bytes.
    pub device: String,
    /// Ethernet address; the kernel picks a random one when absent.
    pub mac: Option<MacAddress>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Transmit and receive queues of the device.
    pub queues: u32,
    /// Interface index; the kernel picks a free one when absent. Ends with different indexes come up at once, ends
    /// with the same index within a second: the kernel hurries only when it takes the two for different devices.
    pub index: Option<u32>,
}

impl VethEnd {
    /// An end with an MTU of 1500 bytes and one queue.
    pub fn new(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            mac: None,
            mtu: 1500,
            queues: 1,
            index: None,
        }
    }
}

/// A device as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Device name.
    pub name: String,
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Ethernet address, for devices that have one.
    pub mac: Option<MacAddress>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it carries packets: up, the other end up too, and its transmit queue at work.
    pub operational: bool,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Receive queues.
    pub rx_queues: u32,
    /// Packets and bytes since the device was made.
    pub counters: LinkCounters,
}

/// Counters of a device (`struct rtnl_link_stats64`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Received packets; one for a whole GSO packet.
    pub rx_packets: u64,
    /// Received bytes.
    pub rx_bytes: u64,
    /// Sent packets; one for a whole GSO packet.
    pub tx_packets: u64,
    /// Sent bytes.
    pub tx_bytes: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Packets dropped at sending.
    pub tx_dropped: u64,
}

/// A netlink socket of one namespace; it can be used from any thread.
pub struct Rtnl {
    socket: Socket,
    namespace: String,
    sequence: u32,
}

impl Rtnl {
    /// Opens a socket in the calling thread's namespace; `namespace` serves messages only.
    pub(crate) fn open(namespace: &str) -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(cannot::<io::Error>(format!(
            "open a netlink socket in `{namespace}`"
        )))?;
        Ok(Self {
            socket,
            namespace: namespace.to_owned(),
            sequence: 0,
        })
    }

    /// Makes a veth pair: `here` in this namespace, `there` in `peer`. Both ends are down.
    ///
    /// # Errors
    /// [`SimError::System`] when a name is taken or a value out of range.
    pub fn add_veth(&mut self, here: &VethEnd, peer: &Namespace, there: &VethEnd) -> Result<()> {
        let action = format!(
            "make veth pair `{}` - `{}` in `{}`",
            here.device,
            there.device,
            peer.name()
        );
        let mut peer_message = LinkMessage::default();
        peer_message.header.index = there.index.unwrap_or(0);
        peer_message.attributes = end_attributes(there);
        peer_message
            .attributes
            .push(LinkAttribute::NetNsFd(peer.as_fd().as_raw_fd()));
        let mut message = LinkMessage::default();
        message.header.index = here.index.unwrap_or(0);
        message.attributes = end_attributes(here);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message))),
        ]));
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            &action,
        )
    }

    /// Removes a device; for a veth the other end goes with it.
    ///
    /// # Errors
    /// [`SimError::System`] when there is no such device.
    pub fn delete_link(&mut self, device: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(device)?;
        self.change(
            RouteNetlinkMessage::DelLink(message),
            0,
            &format!("remove device `{device}`"),
        )
    }

    /// Brings a device up or down.
    ///
    /// # Errors
    /// [`SimError::System`] when there is no such device.
    pub fn set_up(&mut self, device: &str, up: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(device)?;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let action = format!("bring device `{device}` {}", if up { "up" } else { "down" });
        self.change(RouteNetlinkMessage::SetLink(message), 0, &action)
    }

    /// Sets the largest IP packet of a device, in bytes.
    ///
    /// # Errors
    /// [`SimError::System`] when there is no such device or the value is out of its range.
    pub fn set_mtu(&mut self, device: &str, mtu: u32) -> Result<()> {
        self.set_attribute(
            device,
            LinkAttribute::Mtu(mtu),
            &format!("set mtu {mtu} on `{device}`"),
        )
    }

    /// Sets the Ethernet address of a device.
    ///
    /// # Errors
    /// [`SimError::System`] when there is no such device or the address is a group address.
    pub fn set_mac(&mut self, device: &str, mac: MacAddress) -> Result<()> {
        let attribute = LinkAttribute::Address(mac.0.to_vec());
        self.set_attribute(
            device,
            attribute,
            &format!("set address {mac} on `{device}`"),
        )
    }

    /// All devices of the namespace.
    ///
    /// # Errors
    /// [`SimError::System`] when the kernel does not answer.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(request, "list the devices")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => link(&message),
                _ => None,
            })
            .collect())
    }

    /// The device named `device`.
    ///
    /// # Errors
    /// [`SimError::Unknown`] when there is none.
    pub fn link(&mut self, device: &str) -> Result<Link> {
        let links = self.links()?;
        let known = links
            .iter()
            .map(|link| link.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        links
            .into_iter()
            .find(|link| link.name == device)
            .ok_or(SimError::Unknown {
                kind: "device",
                name: format!("{device} in namespace {}", self.namespace),
                known,
            })
    }

    /// Waits until a device carries packets. After a change the kernel may take a second to activate it, and drops
    /// what is sent meanwhile.
    ///
    /// # Errors
    /// [`SimError::TimedOut`] when it does not within `patience`, [`SimError::Unknown`] when there is no such device.
    pub fn wait_operational(&mut self, device: &str, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while !self.link(device)?.operational {
            if start.elapsed() > patience {
                let what = format!(
                    "device `{device}` in namespace `{}` coming up",
                    self.namespace
                );
                return Err(SimError::TimedOut {
                    what,
                    after: patience,
                });
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Adds an address to a device, IPv6 without duplicate address detection (RFC 4862).
    ///
    /// # Errors
    /// [`SimError::System`] when the device is unknown or has the address already.
    pub fn add_address(&mut self, device: &str, address: Prefix) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = self.index(device)?;
        message.header.family = family(address.address);
        message.header.prefix_len = address.length;
        message.attributes = vec![
            AddressAttribute::Local(address.address),
            AddressAttribute::Address(address.address),
        ];
        if address.address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        let action = format!("add address {address} to `{device}`");
        self.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
            &action,
        )
    }

    /// The addresses of a device, link-local ones included.
    ///
    /// # Errors
    /// [`SimError::System`] when the device is unknown.
    pub fn addresses(&mut self, device: &str) -> Result<Vec<Prefix>> {
        Ok(self
            .address_messages(device)?
            .iter()
            .filter_map(address)
            .collect())
    }

    /// Removes all addresses of a device, and with them the routes through it.
    ///
    /// # Errors
    /// [`SimError::System`] when the device is unknown.
    pub fn flush_addresses(&mut self, device: &str) -> Result<()> {
        let action = format!("remove the addresses of `{device}`");
        for message in self.address_messages(device)? {
            // Removing an address may have removed the secondary ones of the same subnet already.
            match self.change(RouteNetlinkMessage::DelAddress(message), 0, &action) {
                Err(SimError::System { source, .. })
                    if source.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Adds a route to `destination` through `gateway`; a length of 0 makes it the default route.
    ///
    /// # Errors
    /// [`SimError::System`] when the gateway is on no connected subnet or the route exists.
    pub fn add_route(&mut self, destination: Prefix, gateway: IpAddr) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.address);
        message.header.destination_prefix_length = destination.length;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        if destination.length > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(RouteAddress::from(
                    destination.network(),
                )));
        }
        let action = format!("add route {destination} via {gateway}");
        self.change(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
            &action,
        )
    }

    /// Sets a permanent neighbour entry, which is never resolved or aged.
    ///
    /// # Errors
    /// [`SimError::System`] when the device is unknown.
    pub fn set_neighbour(&mut self, device: &str, ip: IpAddr, mac: MacAddress) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = self.index(device)?;
        message.header.family = family(ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(match ip {
                IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
                IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        let action = format!("set neighbour {ip} at {mac} on `{device}`");
        self.change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            &action,
        )
    }

    /// Forgets what ARP and neighbour discovery have learnt; permanent entries stay.
    ///
    /// # Errors
    /// [`SimError::System`] when the kernel refuses.
    pub fn flush_neighbours(&mut self) -> Result<()> {
        let action = "forget the neighbours";
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        for answer in self.dump(request, action)? {
            let RouteNetlinkMessage::NewNeighbour(mut message) = answer else {
                continue;
            };
            if matches!(
                message.header.state,
                NeighbourState::Permanent | NeighbourState::Noarp
            ) {
                continue;
            }
            message
                .attributes
                .retain(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)));
            match self.change(RouteNetlinkMessage::DelNeighbour(message), 0, action) {
                // It aged out meanwhile.
                Err(SimError::System { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Has a classifier program decide about every packet that a device receives.
    ///
    /// # Errors
    /// [`SimError::System`] when the device is unknown or has a queueing discipline for received packets already.
    pub(crate) fn attach_to_ingress(
        &mut self,
        device: &str,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<()> {
        let (message, action) = (self.clsact(device)?, format!("filter on `{device}`"));
        self.change(
            RouteNetlinkMessage::NewQueueDiscipline(message.clone()),
            NLM_F_CREATE | NLM_F_EXCL,
            &format!("prepare to {action}"),
        )?;
        let mut filter = TcMessage::with_index(message.header.index);
        filter.header.parent = TcHandle {
            minor: TcHandle::MIN_INGRESS,
            ..TcHandle::CLSACT
        };
        // The priority in the upper half; in the lower, which packets, in network byte order.
        filter.header.info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
        filter.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        self.change(
            RouteNetlinkMessage::NewTrafficFilter(filter),
            NLM_F_CREATE | NLM_F_EXCL,
            &action,
        )
    }

    /// Takes off what [`Rtnl::attach_to_ingress`] put on.
    ///
    /// # Errors
    /// [`SimError::System`] when the device is unknown or nothing is on it.
    pub(crate) fn detach_from_ingress(&mut self, device: &str) -> Result<()> {
        let message = self.clsact(device)?;
        self.change(
            RouteNetlinkMessage::DelQueueDiscipline(message),
            0,
            &format!("remove the filters of `{device}`"),
        )
    }

    /// The queueing discipline that only holds filters.
    fn clsact(&mut self, device: &str) -> Result<TcMessage> {
        let mut message = TcMessage::with_index(self.index(device)? as i32);
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle {
            minor: 0,
            ..TcHandle::CLSACT
        };
        message.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
        Ok(message)
    }

    fn set_attribute(
        &mut self,
        device: &str,
        attribute: LinkAttribute,
        action: &str,
    ) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(device)?;
        message.attributes.push(attribute);
        self.change(RouteNetlinkMessage::SetLink(message), 0, action)
    }

    fn index(&mut self, device: &str) -> Result<u32> {
        Ok(self.link(device)?.index)
    }

    fn address_messages(&mut self, device: &str) -> Result<Vec<AddressMessage>> {
        let index = self.index(device)?;
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(request, "list the addresses")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                    Some(message)
                }
                _ => None,
            })
            .collect())
    }

    /// Sends a change and waits for the kernel's acknowledgement.
    fn change(&mut self, message: RouteNetlinkMessage, flags: u16, action: &str) -> Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
            .map_err(cannot(format!("{action} (namespace `{}`)", self.namespace)))
    }

    fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        action: &str,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP)
            .map_err(cannot(format!("{action} (namespace `{}`)", self.namespace)))
    }

    /// Sends one request and collects the answers up to the acknowledgement or the end of the dump.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            // The kernel answers every request of this socket at once: no timeout is needed.
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while rest.len() >= 16 {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                // Messages are aligned to four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                        };
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

fn end_attributes(end: &VethEnd) -> Vec<LinkAttribute> {
    let mut attributes = vec![
        LinkAttribute::IfName(end.device.clone()),
        LinkAttribute::Mtu(end.mtu),
        LinkAttribute::NumTxQueues(end.queues),
        LinkAttribute::NumRxQueues(end.queues),
    ];
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        name: String::new(),
        index: message.header.index,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        operational: false,
        tx_queues: 0,
        rx_queues: 0,
        counters: LinkCounters::default(),
    };
    let (mut state_is_up, mut queue_works) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::OperState(state) => state_is_up = *state == State::Up,
            // A device has the queue "noop", which drops everything, until the kernel activates it.
            LinkAttribute::Qdisc(name) => queue_works = name != "noop",
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().ok().map(MacAddress);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::NumTxQueues(queues) => link.tx_queues = *queues,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
            LinkAttribute::Stats64(stats) => {
                link.counters = LinkCounters {
                    rx_packets: stats.rx_packets,
                    rx_bytes: stats.rx_bytes,
                    tx_packets: stats.tx_packets,
                    tx_bytes: stats.tx_bytes,
                    rx_dropped: stats.rx_dropped,
                    tx_dropped: stats.tx_dropped,
                };
            }
            _ => {}
        }
    }
    link.operational = link.up && state_is_up && queue_works;
    (!link.name.is_empty()).then_some(link)
}

fn address(message: &AddressMessage) -> Option<Prefix> {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
    // IPv6 addresses come without the attribute for the local end.
    let address = address.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })
    })?;
    Prefix::new(address, message.header.prefix_len)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The prefix of the default route of a gateway's family.
pub(crate) fn default_route(gateway: IpAddr) -> Prefix {
    let any = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Prefix {
        address: any,
        length: 0,
    }
}
