//! Programs that the kernel runs on packets: the bpf(2) calls for an array of counters and a classifier program.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// The helpers that the programs call are open to programs of any licence.
const LICENCE: &CStr = c"Apache-2.0";

/// One instruction (linux/bpf.h, `struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) opcode: u8,
    /// Destination register in the lower four bits, source in the upper; the other way round on big-endian machines.
    registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

impl Instruction {
    pub(crate) fn new(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        let (low, high) = if cfg!(target_endian = "little") {
            (to, from)
        } else {
            (from, to)
        };
        Self {
            opcode,
            registers: low & 0x0f | high << 4,
            offset,
            immediate,
        }
    }
}

/// `N` counters that programs add to: the only value of an array map.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize> {
    map: OwnedFd,
}

impl<const N: usize> Counters<N> {
    /// Makes counters that stand at zero.
    pub(crate) fn new() -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
        }
        let mut attributes = Attributes {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<[u64; N]>() as u32,
            max_entries: 1,
            map_flags: 0,
        };
        // JUSTIFICATION: no safe wrapper of bpf(2) exists in std or nix.
        // SAFETY: the structure begins as `union bpf_attr` does for this command, whose remaining fields the kernel takes for
        // zero; it holds no pointer.
        let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }?;
        // JUSTIFICATION: the only way to own a descriptor that a raw system call made.
        // SAFETY: the kernel has just opened it for us, and nobody else knows it.
        let map = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { map })
    }

    /// Where they stand.
    pub(crate) fn read(&self) -> io::Result<[u64; N]> {
        #[repr(C)]
        struct Attributes {
            map_fd: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let key = 0_u32;
        let mut values = [0_u64; N];
        let mut attributes = Attributes {
            map_fd: self.descriptor() as u32,
            padding: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw mut values).expose_provenance() as u64,
            flags: 0,
        };
        // JUSTIFICATION: as above.
        // SAFETY: `key` has the four bytes of the map's keys and `values` the size of its values, as `new` made the map;
        // both live across the call. Any bits are valid integers.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) }?;
        Ok(values)
    }

    /// The number by which instructions name the map while they are loaded.
    pub(crate) fn descriptor(&self) -> i32 {
        self.map.as_fd().as_raw_fd()
    }
}

/// Loads a traffic classifier; the kernel checks that it ends and touches nothing but its packet and its counters.
pub(crate) fn load_classifier(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut attributes = Attributes {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        licence: LICENCE.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // JUSTIFICATION: as above.
    // SAFETY: the kernel reads `instruction_count` instructions of eight bytes and a string with its end; both live across
    // the call. It writes no log, for its size is zero.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // JUSTIFICATION: as above.
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs one command.
///
/// # Safety
/// `attributes` is laid out as the beginning of `union bpf_attr` for `command`, and its pointers are good for what the command
/// reads and writes through them.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // JUSTIFICATION: as above.
    // SAFETY: the caller's promise; the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attributes,
            size_of::<T>() as libc::c_uint,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        // Descriptors and zero fit.
        Ok(result as libc::c_int)
    }
}
