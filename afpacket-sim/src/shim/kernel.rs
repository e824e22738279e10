//! The shim as two programs of the kernel's traffic control.
//!
//! Each stands on the ingress hook of one device and sends what it lets pass out of the other one: no thread wakes up, and the
//! whole way is done within the system call that sent the packet. They are not on the host's own device, because its packet
//! sockets would then see the tags, and frames of other VLANs. The kernel keeps one tag beside the packet (before ingress it
//! puts the outermost one there), so the length, the checksum and the segmentation still to be done are those of the packet
//! without that tag.

use std::os::fd::AsFd;

use crate::error::cannot;
use crate::shim::{ShimStatistics, tags};
use crate::sys::bpf::{Counters, Instruction, load_classifier};
use crate::topology::Tag;
use crate::{Namespace, Result};

/// One for each field of [`ShimStatistics`] that the programs know.
const COUNTERS: usize = 4;
const TO_TRUNK: usize = 0;
const TO_HOST: usize = 1;
const OTHER_VLAN: usize = 2;
const MALFORMED: usize = 3;

/// Offsets of what a program sees of a packet (linux/bpf.h, `struct __sk_buff`).
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;
const VLAN_PROTO: i16 = 28;
/// The VLAN id in the tag's control information; the rest is priority and drop eligibility.
const VLAN_ID: i32 = 0x0fff;

/// Functions of the kernel, by their numbers in linux/bpf.h.
const SKB_VLAN_PUSH: i32 = 18;
const SKB_VLAN_POP: i32 = 19;
const REDIRECT: i32 = 23;

/// The verdict that ends a packet (`TC_ACT_SHOT`).
const DROP: i32 = 2;

/// The programs on the two devices; they are taken off when dropped.
pub(super) struct KernelShim {
    namespace: Namespace,
    devices: [String; 2],
    counters: Counters<COUNTERS>,
}

impl KernelShim {
    /// Puts the programs on their devices.
    pub(super) fn start(
        namespace: &Namespace,
        host_device: &str,
        trunk_device: &str,
        tag: Tag,
    ) -> Result<Self> {
        let mut rtnl = namespace.rtnl()?;
        let host = rtnl.link(host_device)?.index as i32;
        let trunk = rtnl.link(trunk_device)?.index as i32;
        let counters = Counters::new().map_err(cannot("make counters for a packet program"))?;
        let load = |instructions: &[Instruction]| {
            load_classifier(instructions).map_err(cannot("load a packet program"))
        };
        let tagging = load(&tagging(tag, trunk, counters.descriptor()))?;
        let untagging = load(&untagging(tag, host, counters.descriptor()))?;
        // From here on dropping it takes off what is on.
        let shim = Self {
            namespace: namespace.clone(),
            devices: [host_device, trunk_device].map(str::to_owned),
            counters,
        };
        rtnl.attach_to_ingress(host_device, tagging.as_fd(), "vlan-tag")?;
        rtnl.attach_to_ingress(trunk_device, untagging.as_fd(), "vlan-untag")?;
        Ok(shim)
    }

    pub(super) fn statistics(&self) -> ShimStatistics {
        // The map is ours and its only key exists: reading it does not fail.
        let counters = self.counters.read().unwrap_or_default();
        ShimStatistics {
            to_trunk: counters[TO_TRUNK],
            to_host: counters[TO_HOST],
            other_vlan: counters[OTHER_VLAN],
            malformed: counters[MALFORMED],
            send_failed: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        let links = self.namespace.rtnl().and_then(|mut rtnl| rtnl.links());
        links.is_ok_and(|links| {
            self.devices
                .iter()
                .all(|device| links.iter().any(|link| link.name == *device))
        })
    }
}

impl Drop for KernelShim {
    fn drop(&mut self) {
        if let Ok(mut rtnl) = self.namespace.rtnl() {
            for device in &self.devices {
                // It may be gone, or have nothing on it.
                let _ = rtnl.detach_from_ingress(device);
            }
        }
    }
}

/// The program on the device towards the host: puts the tags in, the innermost first, and sends to the trunk. The host itself
/// may not tag.
fn tagging(tag: Tag, trunk: i32, counters: i32) -> Vec<Instruction> {
    let mut program = Assembler::new(counters);
    program.load(2, VLAN_PRESENT);
    program.refuse_unless_equal(2, 0);
    for (protocol, id) in tags(tag).rev() {
        program.set_packet();
        program.set(2, i32::from(protocol.to_be()));
        program.set(3, i32::from(id));
        program.call(SKB_VLAN_PUSH);
        program.refuse_unless_equal(0, 0);
    }
    program.redirect(trunk, TO_TRUNK);
    program.finish(MALFORMED)
}

/// The program on the trunk: takes the tags out, the outermost first, where they are the right ones, and sends to the host.
fn untagging(tag: Tag, host: i32, counters: i32) -> Vec<Instruction> {
    let mut program = Assembler::new(counters);
    for (protocol, id) in tags(tag) {
        program.load(2, VLAN_PRESENT);
        program.refuse_unless_equal(2, 1);
        program.load(2, VLAN_PROTO);
        program.refuse_unless_equal(2, i32::from(protocol.to_be()));
        program.load(2, VLAN_TCI);
        program.and(2, VLAN_ID);
        program.refuse_unless_equal(2, i32::from(id));
        program.set_packet();
        // What stands next in the packet, if it is a tag, comes to stand beside it.
        program.call(SKB_VLAN_POP);
        program.refuse_unless_equal(0, 0);
    }
    program.redirect(host, TO_HOST);
    program.finish(OTHER_VLAN)
}

/// Writes a program. Register 1 holds the packet at the beginning; 0 to 5 are lost by calls; 6 keeps the packet.
struct Assembler {
    instructions: Vec<Instruction>,
    /// Jumps to the end of the program, where the packet is refused.
    refusals: Vec<usize>,
    counters: i32,
}

impl Assembler {
    const PACKET: u8 = 6;

    fn new(counters: i32) -> Self {
        let mut program = Self {
            instructions: Vec::new(),
            refusals: Vec::new(),
            counters,
        };
        program.copy(Self::PACKET, 1);
        program
    }

    fn push(&mut self, opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        let instruction = Instruction::new(opcode, to, from, offset, immediate);
        self.instructions.push(instruction);
    }

    /// `to = from`
    fn copy(&mut self, to: u8, from: u8) {
        self.push(0xbf, to, from, 0, 0);
    }

    /// `register = value`
    fn set(&mut self, register: u8, value: i32) {
        self.push(0xb7, register, 0, 0, value);
    }

    /// `register1 = packet`
    fn set_packet(&mut self) {
        self.copy(1, Self::PACKET);
    }

    /// `register = *(u32 *)(packet + offset)`
    fn load(&mut self, register: u8, offset: i16) {
        self.push(0x61, register, Self::PACKET, offset, 0);
    }

    /// `register &= mask`
    fn and(&mut self, register: u8, mask: i32) {
        self.push(0x57, register, 0, 0, mask);
    }

    /// `register0 = function(register1, …)`
    fn call(&mut self, function: i32) {
        self.push(0x85, 0, 0, 0, function);
    }

    /// `if (register != value) goto refuse`
    fn refuse_unless_equal(&mut self, register: u8, value: i32) {
        self.refusals.push(self.instructions.len());
        self.push(0x55, register, 0, 0, value);
    }

    /// `counters[counter] += 1`, atomically
    fn count(&mut self, counter: usize) {
        // The address of a value inside the map (BPF_PSEUDO_MAP_VALUE), in two instructions.
        self.push(0x18, 1, 2, 0, self.counters);
        self.push(0, 0, 0, 0, (counter * size_of::<u64>()) as i32);
        self.set(2, 1);
        self.push(0xdb, 1, 2, 0, 0);
    }

    /// `counters[counter] += 1; return redirect(device, 0)`
    fn redirect(&mut self, device: i32, counter: usize) {
        self.count(counter);
        self.set(1, device);
        self.set(2, 0);
        self.call(REDIRECT);
        self.exit();
    }

    fn exit(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// `refuse: counters[refused] += 1; return DROP`
    fn finish(mut self, refused: usize) -> Vec<Instruction> {
        let end = self.instructions.len();
        for jump in &self.refusals {
            // Relative to the instruction behind the jump.
            self.instructions[*jump].offset = (end - jump - 1) as i16;
        }
        self.count(refused);
        self.set(0, DROP);
        self.exit();
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::{Assembler, tagging, untagging};
    use crate::sys::bpf::Instruction;
    use crate::topology::Tag;

    #[test]
    fn a_program_is_what_the_kernel_expects() {
        let new = Instruction::new;
        let tag = Tag {
            vlan: 10,
            outer: None,
        };
        let expected = [
            new(0xbf, 6, 1, 0, 0),  // r6 = r1
            new(0x61, 2, 6, 20, 0), // r2 = vlan_present
            new(0x55, 2, 0, 13, 0), // if r2 != 0 goto refuse
            new(0xbf, 1, 6, 0, 0),  // r1 = r6
            new(0xb7, 2, 0, 0, i32::from(0x8100_u16.to_be())),
            new(0xb7, 3, 0, 0, 10),
            new(0x85, 0, 0, 0, 18), // skb_vlan_push
            new(0x55, 0, 0, 8, 0),  // if r0 != 0 goto refuse
            new(0x18, 1, 2, 0, 77), // r1 = &counters[0]
            new(0x00, 0, 0, 0, 0),
            new(0xb7, 2, 0, 0, 1),
            new(0xdb, 1, 2, 0, 0), // *r1 += r2
            new(0xb7, 1, 0, 0, 5),
            new(0xb7, 2, 0, 0, 0),
            new(0x85, 0, 0, 0, 23), // redirect
            new(0x95, 0, 0, 0, 0),  // exit
            // refuse:
            new(0x18, 1, 2, 0, 77), // r1 = &counters[3]
            new(0x00, 0, 0, 0, 24),
            new(0xb7, 2, 0, 0, 1),
            new(0xdb, 1, 2, 0, 0),
            new(0xb7, 0, 0, 0, 2),
            new(0x95, 0, 0, 0, 0),
        ];
        assert_eq!(tagging(tag, 5, 77), expected);
    }

    #[test]
    fn refusals_lead_to_the_end() {
        for outer in [None, Some(4094)] {
            let tag = Tag { vlan: 1, outer };
            for program in [tagging(tag, 5, 77), untagging(tag, 5, 77)] {
                // Six instructions count and return.
                let refuse = program.len() - 6;
                let targets: Vec<_> = program
                    .iter()
                    .enumerate()
                    .filter(|(_, instruction)| instruction.opcode == 0x55)
                    .map(|(at, jump)| at + 1 + jump.offset as usize)
                    .collect();
                assert!(!targets.is_empty());
                assert!(
                    targets.iter().all(|target| *target == refuse),
                    "{targets:?}"
                );
                assert_eq!(program[refuse - 1], Instruction::new(0x95, 0, 0, 0, 0));
            }
        }
        let mut empty = Assembler::new(1);
        empty.exit();
        assert_eq!(empty.finish(0).len(), 2 + 6);
    }
}
