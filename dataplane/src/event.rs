//! Waking threads: an eventfd that is signalled at most once until it is cleared, and poll(2).
#![expect(
    unsafe_code,
    reason = "eventfd and poll are system calls without a safe interface in std"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use crate::sync::{AtomicBool, Ordering};

/// Something to wake a sleeper with.
pub struct Event {
    file: File,
    pending: Pending,
}

impl Event {
    /// Not signalled.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // JUSTIFICATION: std has no eventfd.
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // JUSTIFICATION: wraps the descriptor so that it is closed.
        // SAFETY: the descriptor was just made and has no other owner.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self {
            file,
            pending: Pending::new(),
        })
    }

    /// Makes the descriptor readable, if it is not already.
    #[inline]
    pub fn signal(&self) {
        if self.pending.raise() {
            // It can fail only when the counter is at its limit, and then the descriptor is readable.
            let _ = (&self.file).write(&1u64.to_ne_bytes());
        }
    }

    /// Makes it unreadable: call it after waking up, before looking for what was signalled.
    pub fn clear(&self) {
        // It fails only when nothing was written yet: then a wake-up too many follows, which does no harm.
        let _ = (&self.file).read(&mut [0; 8]);
        self.pending.lower();
    }

    /// True between [`Event::signal`] and [`Event::clear`].
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.0.load(Ordering::Relaxed)
    }
}

/// Whether a descriptor is readable, or about to be, so that it is written once.
///
/// The order in [`Event::clear`] matters: were the flag lowered before the descriptor is read, a signal in between would have its
/// write read away and leave the flag up, and nobody would ever write again.
pub(crate) struct Pending(AtomicBool);

impl Pending {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// True where the caller is to make the descriptor readable.
    #[inline]
    pub(crate) fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The descriptor was read. A swap, so that who lowers the flag sees what those did before who found it up.
    pub(crate) fn lower(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Waits until one of the descriptors is readable or the time (milliseconds) is over. For control threads.
pub fn wait_readable(fds: &[RawFd], timeout_ms: i32) {
    let poll_fd = |fd: &RawFd| libc::pollfd {
        fd: *fd,
        events: libc::POLLIN,
        revents: 0,
    };
    poll(&mut fds.iter().map(poll_fd).collect::<Vec<_>>(), timeout_ms);
}

/// Asks for a scheduling priority (nice value) for the calling thread; whether it was given. A higher one than the thread has is given to
/// everybody: for work in the background, which must not hold back what somebody waits for.
pub fn set_nice(nice: i32) -> bool {
    // JUSTIFICATION: std does not set priorities.
    // SAFETY: the call takes no pointers; on Linux, who 0 means the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) == 0 }
}

/// Waits until one of the descriptors is ready or the time is over.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout_ms: i32) {
    // JUSTIFICATION: std has no poll.
    // SAFETY: the pointer and the count describe one slice that is borrowed for the call. Errors mean "look again".
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
}
