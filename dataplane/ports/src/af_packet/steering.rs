//! The program by which the kernel gives a packet to the queue of the worker that owns its flow: [`owner_of`](dataplane::owner_of)
//! in classic BPF. What the program cannot find out (the flow that an ICMP error is about, ports behind IPv6 extension headers) goes
//! by addresses alone, and workers hand it over.
//!
//! Source: the kernel's `Documentation/networking/filter.rst`.

use dataplane::OWNER_FACTORS;
use libc::sock_filter;

/// Memory words of the program.
const XOR: u32 = 0;
const SUM: u32 = 1;
const PORTS: u32 = 2;
const ONE: u32 = 3;
const OTHER: u32 = 4;
/// Bytes from the network header to the IP header, and to the transport header: 4 where a second VLAN tag lies in front.
const NETWORK: u32 = 5;
const TRANSPORT: u32 = 6;

/// Where the kernel keeps the network header, what it knows beside the packet: the protocol behind tags, and its own hash.
const NET: u32 = libc::SKF_NET_OFF as u32;
const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
const HASH: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RXHASH) as u32;

const WORD: u32 = libc::BPF_W;
const HALF: u32 = libc::BPF_H;
const BYTE: u32 = libc::BPF_B;

/// A place in the program that is jumped to.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Label {
    #[default]
    Next,
    Tagged,
    Untagged,
    Ip4,
    Ip6,
    Ports4,
    Echo4,
    Echo4Known,
    Ports6,
    Echo6,
    Echo6Known,
    Fold,
    Finish,
}

/// A program in the making: jumps are resolved at its end.
#[derive(Default)]
struct Assembler {
    code: Vec<(sock_filter, [Label; 2])>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    fn op(&mut self, code: u32, k: u32) {
        self.jump_op(code, k, [Label::Next; 2]);
    }

    fn jump_op(&mut self, code: u32, k: u32, to: [Label; 2]) {
        let filter = sock_filter {
            code: code as u16,
            jt: 0,
            jf: 0,
            k,
        };
        self.code.push((filter, to));
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.code.len()));
    }

    /// A = what is known beside the packet.
    fn know(&mut self, what: u32) {
        self.op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, what);
    }

    /// A = bytes of the packet, from the header that a memory word tells the place of.
    fn load(&mut self, size: u32, header: u32, offset: u32) {
        self.get_x(header);
        let at = NET.wrapping_add(offset);
        self.op(libc::BPF_LD | size | libc::BPF_IND, at);
    }

    fn set(&mut self, value: u32) {
        self.op(libc::BPF_LD | libc::BPF_IMM, value);
    }

    fn get(&mut self, word: u32) {
        self.op(libc::BPF_LD | libc::BPF_MEM, word);
    }

    fn get_x(&mut self, word: u32) {
        self.op(libc::BPF_LDX | libc::BPF_MEM, word);
    }

    fn put(&mut self, word: u32) {
        self.op(libc::BPF_ST, word);
    }

    /// A = A op a number.
    fn with(&mut self, op: u32, value: u32) {
        self.op(libc::BPF_ALU | op | libc::BPF_K, value);
    }

    /// A = A op a memory word.
    fn with_word(&mut self, op: u32, word: u32) {
        self.get_x(word);
        self.op(libc::BPF_ALU | op | libc::BPF_X, 0);
    }

    fn jump(&mut self, to: Label) {
        self.jump_op(libc::BPF_JMP | libc::BPF_JA, 0, [to, Label::Next]);
    }

    fn jump_if_is(&mut self, value: u32, to: Label) {
        let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        self.jump_op(code, value, [to, Label::Next]);
    }

    fn jump_if_any(&mut self, bits: u32, to: Label) {
        let code = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
        self.jump_op(code, bits, [to, Label::Next]);
    }

    /// Adds the word in A to the digest of addresses.
    fn take_in(&mut self) {
        self.put(ONE);
        self.with_word(libc::BPF_XOR, XOR);
        self.put(XOR);
        self.get(ONE);
        self.with_word(libc::BPF_ADD, SUM);
        self.put(SUM);
    }

    /// The program with its jumps; `None` where one is too long.
    fn finish(self) -> Option<Vec<sock_filter>> {
        let Self { code, labels } = self;
        let resolve = |(at, (mut filter, to)): (usize, (sock_filter, [Label; 2]))| {
            let distance = |label: Label| match label {
                Label::Next => Some(0),
                _ => {
                    let (_, place) = labels.iter().find(|(name, _)| *name == label)?;
                    place.checked_sub(at + 1)
                }
            };
            if u32::from(filter.code) == libc::BPF_JMP | libc::BPF_JA {
                filter.k = distance(to[0])? as u32;
            } else {
                filter.jt = distance(to[0])?.try_into().ok()?;
                filter.jf = distance(to[1])?.try_into().ok()?;
            }
            Some(filter)
        };
        code.into_iter().enumerate().map(resolve).collect()
    }
}

/// The program for so many queues, each of which is the worker's with its number.
pub(super) fn program(queues: u16) -> Option<Vec<sock_filter>> {
    let mut asm = Assembler::default();
    asm.set(0);
    for word in [XOR, SUM, PORTS, NETWORK] {
        asm.put(word);
    }
    asm.know(PROTOCOL);
    for tag in [libc::ETH_P_8021Q, libc::ETH_P_8021AD] {
        asm.jump_if_is(tag as u32, Label::Tagged);
    }
    asm.jump(Label::Untagged);
    // The kernel takes one tag away; behind another stands the protocol.
    asm.label(Label::Tagged);
    asm.set(4);
    asm.put(NETWORK);
    asm.op(libc::BPF_LD | HALF | libc::BPF_ABS, NET.wrapping_add(2));
    asm.label(Label::Untagged);
    asm.jump_if_is(libc::ETH_P_IP as u32, Label::Ip4);
    asm.jump_if_is(libc::ETH_P_IPV6 as u32, Label::Ip6);
    asm.know(HASH);
    asm.op(libc::BPF_RET | libc::BPF_A, 0);

    asm.label(Label::Ip4);
    for offset in [12, 16] {
        asm.load(WORD, NETWORK, offset);
        asm.take_in();
    }
    asm.load(HALF, NETWORK, 6);
    // A fragment goes by addresses alone.
    asm.jump_if_any(0x3fff, Label::Finish);
    asm.load(BYTE, NETWORK, 0);
    asm.with(libc::BPF_AND, 15);
    asm.with(libc::BPF_LSH, 2);
    asm.with_word(libc::BPF_ADD, NETWORK);
    asm.put(TRANSPORT);
    asm.load(BYTE, NETWORK, 9);
    asm.jump_if_is(libc::IPPROTO_ICMP as u32, Label::Echo4);
    for protocol in PORT_PROTOCOLS {
        asm.jump_if_is(protocol, Label::Ports4);
    }
    asm.jump(Label::Finish);
    asm.label(Label::Echo4);
    echo(&mut asm, ECHO4, Label::Echo4Known);
    asm.label(Label::Ports4);
    ports(&mut asm);

    asm.label(Label::Ip6);
    for word in 0..8 {
        asm.load(WORD, NETWORK, 8 + 4 * word);
        asm.take_in();
    }
    asm.get(NETWORK);
    asm.with(libc::BPF_ADD, 40);
    asm.put(TRANSPORT);
    asm.load(BYTE, NETWORK, 6);
    asm.jump_if_is(libc::IPPROTO_ICMPV6 as u32, Label::Echo6);
    for protocol in PORT_PROTOCOLS {
        asm.jump_if_is(protocol, Label::Ports6);
    }
    asm.jump(Label::Finish);
    asm.label(Label::Echo6);
    echo(&mut asm, ECHO6, Label::Echo6Known);
    asm.label(Label::Ports6);
    ports(&mut asm);

    asm.label(Label::Fold);
    asm.get(ONE);
    asm.with_word(libc::BPF_XOR, OTHER);
    asm.with(libc::BPF_LSH, 16);
    asm.put(PORTS);
    asm.get(ONE);
    asm.with_word(libc::BPF_ADD, OTHER);
    asm.with(libc::BPF_AND, 0xffff);
    asm.with_word(libc::BPF_OR, PORTS);
    asm.put(PORTS);

    asm.label(Label::Finish);
    for (word, factor) in [XOR, SUM, PORTS].into_iter().zip(OWNER_FACTORS) {
        asm.get(word);
        asm.with(libc::BPF_MUL, factor);
        asm.put(word);
    }
    asm.get(XOR);
    asm.with_word(libc::BPF_XOR, SUM);
    asm.with_word(libc::BPF_XOR, PORTS);
    asm.put(ONE);
    asm.with(libc::BPF_RSH, 15);
    asm.with_word(libc::BPF_XOR, ONE);
    asm.with(libc::BPF_MUL, OWNER_FACTORS[3]);
    asm.with(libc::BPF_RSH, 16);
    asm.with(libc::BPF_MUL, queues.into());
    asm.with(libc::BPF_RSH, 16);
    asm.op(libc::BPF_RET | libc::BPF_A, 0);
    asm.finish()
}

/// Protocols whose headers begin with two ports: TCP, UDP, SCTP, UDP-Lite.
const PORT_PROTOCOLS: [u32; 4] = [6, 17, 132, 136];
/// Types of the echo request and reply.
const ECHO4: [u32; 2] = [8, 0];
const ECHO6: [u32; 2] = [128, 129];

/// Both ports.
fn ports(asm: &mut Assembler) {
    for (offset, word) in [(0, ONE), (2, OTHER)] {
        asm.load(HALF, TRANSPORT, offset);
        asm.put(word);
    }
    asm.jump(Label::Fold);
}

/// An echo has its identifier and the request's type in the place of ports; other messages go by addresses.
fn echo(asm: &mut Assembler, types: [u32; 2], known: Label) {
    asm.load(BYTE, TRANSPORT, 0);
    for kind in types {
        asm.jump_if_is(kind, known);
    }
    asm.jump(Label::Finish);
    asm.label(known);
    asm.load(HALF, TRANSPORT, 4);
    asm.put(ONE);
    asm.set(types[0]);
    asm.put(OTHER);
    asm.jump(Label::Fold);
}

#[cfg(test)]
mod tests {
    use dataplane::owner_of;
    use proptest::prelude::*;

    use super::*;

    /// What the kernel does with the program, in which it finds the network header at the packet's first byte.
    fn run(program: &[sock_filter], protocol: u16, packet: &[u8]) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; 16], 0);
        let read = |size: u32, place: u32| -> Option<u32> {
            let place = place.wrapping_sub(NET) as usize;
            let count = match size {
                WORD => 4,
                HALF => 2,
                _ => 1,
            };
            let bytes = packet.get(place..place.checked_add(count)?)?;
            Some(
                bytes
                    .iter()
                    .fold(0, |value, byte| value << 8 | u32::from(*byte)),
            )
        };
        loop {
            let filter = program[at];
            let (code, k) = (u32::from(filter.code), filter.k);
            at += 1;
            match code & 7 {
                libc::BPF_LD => {
                    let size = code & 0x18;
                    let loaded = match code & 0xe0 {
                        libc::BPF_IMM => Some(k),
                        libc::BPF_MEM => Some(memory[k as usize]),
                        libc::BPF_ABS if k == PROTOCOL => Some(protocol.into()),
                        libc::BPF_ABS if k == HASH => Some(77),
                        libc::BPF_ABS => read(size, k),
                        libc::BPF_IND => read(size, x.wrapping_add(k)),
                        mode => panic!("mode {mode:#x}"),
                    };
                    // Beyond the packet's end, the kernel gives up with 0.
                    let Some(loaded) = loaded else { return 0 };
                    a = loaded;
                }
                libc::BPF_LDX => x = memory[k as usize],
                libc::BPF_ST => memory[k as usize] = a,
                libc::BPF_ALU => {
                    let value = if code & libc::BPF_X != 0 { x } else { k };
                    a = match code & 0xf0 {
                        libc::BPF_ADD => a.wrapping_add(value),
                        libc::BPF_MUL => a.wrapping_mul(value),
                        libc::BPF_AND => a & value,
                        libc::BPF_OR => a | value,
                        libc::BPF_XOR => a ^ value,
                        libc::BPF_LSH => a << value,
                        libc::BPF_RSH => a >> value,
                        op => panic!("operation {op:#x}"),
                    };
                }
                libc::BPF_JMP => {
                    let taken = match code & 0xf0 {
                        libc::BPF_JA => {
                            at += k as usize;
                            continue;
                        }
                        libc::BPF_JEQ => a == k,
                        libc::BPF_JSET => a & k != 0,
                        op => panic!("jump {op:#x}"),
                    };
                    at += usize::from(if taken { filter.jt } else { filter.jf });
                }
                libc::BPF_RET => return a,
                class => panic!("class {class}"),
            }
        }
    }

    /// The digest as nodes work it out.
    fn digest(addresses: &[u32], ports: (u16, u16)) -> [u32; 3] {
        [
            addresses.iter().fold(0, |sum, word| sum ^ word),
            addresses
                .iter()
                .fold(0, |sum, word| sum.wrapping_add(*word)),
            u32::from(ports.0 ^ ports.1) << 16 | u32::from(ports.0.wrapping_add(ports.1)),
        ]
    }

    fn header(six: bool, protocol: u8, options: usize, words: &[u32], fragment: u16) -> Vec<u8> {
        let mut bytes;
        if six {
            bytes = vec![0x60, 0, 0, 0, 0, 64, protocol, 64];
        } else {
            bytes = vec![0; 12];
            bytes[0] = 0x40 | (5 + options) as u8;
            bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
            bytes[9] = protocol;
        }
        bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        if !six {
            bytes.extend(vec![0xaa; 4 * options]);
        }
        bytes
    }

    proptest! {
        /// The program gives every packet to the queue of the worker to which nodes would hand it.
        #[test]
        fn program_and_nodes_agree(
            six: bool,
            tagged: bool,
            protocol in prop::sample::select(vec![1u8, 6, 17, 58, 132, 136, 47, 44]),
            options in 0..=10usize,
            words: [u32; 8],
            fragment in prop_oneof![Just(0), Just(0x4000), Just(0x2000), any::<u16>()],
            transport: [u8; 8],
            queues in 1..=64u16,
        ) {
            let program = program(queues).expect("short jumps");
            let words = &words[..if six { 8 } else { 2 }];
            let mut packet = if tagged {
                let protocol = if six { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
                [[0, 20], (protocol as u16).to_be_bytes()].concat()
            } else {
                Vec::new()
            };
            packet.extend(header(six, protocol, options, words, fragment));
            packet.extend(transport);
            let half = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
            let echo = if six { 128 } else { 8 };
            let is_echo = (six && protocol == 58 && matches!(transport[0], 128 | 129))
                || (!six && protocol == 1 && matches!(transport[0], 0 | 8));
            let ports = match protocol {
                _ if !six && fragment & 0x3fff != 0 => (0, 0),
                6 | 17 | 132 | 136 => (half(0), half(2)),
                _ if is_echo => (half(4), echo),
                _ => (0, 0),
            };
            let kind = match (tagged, six) {
                (true, _) => libc::ETH_P_8021Q,
                (_, true) => libc::ETH_P_IPV6,
                (_, false) => libc::ETH_P_IP,
            };
            let queue = run(&program, kind as u16, &packet);
            prop_assert_eq!(queue, u32::from(owner_of(digest(words, ports), queues).0));
        }

        /// What is cut off, or is not IP, goes somewhere.
        #[test]
        fn any_bytes_go_somewhere(kind: u16, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let program = program(4).expect("short jumps");
            for kind in [kind, 0x800, 0x86dd, 0x8100, 0x88a8] {
                let queue = run(&program, kind, &bytes);
                prop_assert!(queue < 4 || queue == 77);
            }
        }
    }
}
