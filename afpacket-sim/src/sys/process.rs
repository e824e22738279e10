//! Child processes that start in another network namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command` enter `namespace` before it starts its program, and die with the thread that starts it.
pub(crate) fn enter_on_exec(command: &mut Command, namespace: OwnedFd) {
    let parent = nix::unistd::getpid().as_raw();
    let enter = move || {
        // JUSTIFICATION: PR_SET_PDEATHSIG and setns(2) must run in the child between fork and exec,
        // where nothing may allocate; std offers no safe form of either.
        // SAFETY: prctl with PR_SET_PDEATHSIG takes one integer and touches no memory of ours.
        let armed = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if armed != 0 {
            return Err(io::Error::last_os_error());
        }
        // JUSTIFICATION: as above; the child must not call code that may lock or allocate.
        // SAFETY: getppid has no arguments and no failure.
        if unsafe { libc::getppid() } != parent {
            // The parent died before the signal was armed: nobody would end this child.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // JUSTIFICATION: as above.
        // SAFETY: the descriptor is open: the closure owns it, and the child has a copy until exec.
        if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // JUSTIFICATION: std runs code between fork and exec only through this unsafe function.
    // SAFETY: the closure makes three system calls that are async-signal-safe and builds io::Error
    // values from integers: it takes no lock and does not allocate.
    unsafe { command.pre_exec(enter) };
}
