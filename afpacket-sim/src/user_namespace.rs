//! Root inside a user namespace, for users without privilege.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::{SimError, cannot};

/// Where the privilege to make namespaces comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// The process had the capabilities from the start.
    Own,
    /// The process is root in a user namespace of its own and nobody outside.
    UserNamespace,
}

/// Gets the capabilities that labs need, in a new user namespace (and a new network namespace) if
/// the process lacks them.
///
/// Call it first in `main`: the kernel refuses once the process has a second thread. Afterwards the
/// process is root towards its own namespaces; files are still accessed as the same user, and
/// child processes inherit the state.
///
/// # Errors
/// [`SimError::NoUserNamespace`] with what to do when user namespaces are disabled, and
/// [`SimError::System`] when the identity cannot be mapped.
pub fn enter_user_namespace_if_needed() -> Result<Privilege, SimError> {
    let status = fs::read_to_string("/proc/self/status").map_err(cannot(
        "read the capabilities of this process from /proc/self/status",
    ))?;
    if has_capabilities(&status) {
        return Ok(Privilege::Own);
    }
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|errno| {
        SimError::NoUserNamespace {
            source: errno.into(),
            hint: hint(errno),
        }
    })?;
    // The group map may be written by a plain user only after setgroups(2) is given up (user_namespaces(7)).
    for (file, content) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), content).map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                SimError::NoUserNamespace {
                    source,
                    hint: hint(nix::errno::Errno::EPERM),
                }
            } else {
                cannot(format!("write /proc/self/{file} of the new user namespace"))(source)
            }
        })?;
    }
    Ok(Privilege::UserNamespace)
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;

/// Whether the text of `/proc/<pid>/status` shows all capabilities that labs need as effective.
fn has_capabilities(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    [CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN]
        .iter()
        .all(|bit| effective >> bit & 1 == 1)
}

/// What to change on this machine, from what the kernel answered.
fn hint(errno: nix::errno::Errno) -> String {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    if errno == nix::errno::Errno::EINVAL {
        return "this process already has more than one thread; enter the user namespace first in `main`"
            .to_owned();
    }
    for (path, blocked, wanted) in [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
        ("user/max_net_namespaces", "0", "10000"),
    ] {
        if read(&format!("/proc/sys/{path}")).is_ok_and(|value| value == blocked) {
            return format!("as root, `sysctl -w {}={wanted}`", path.replace('/', "."));
        }
    }
    "a container needs --privileged, or a seccomp profile that allows unshare(2)".to_owned()
}

#[cfg(test)]
mod tests {
    use super::has_capabilities;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = |hex: &str| format!("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{hex}\n");
        assert!(has_capabilities(&status("0000000000203000")));
        assert!(has_capabilities(&status("000001ffffffffff")));
        assert!(
            !has_capabilities(&status("0000000000003000")),
            "no CAP_SYS_ADMIN"
        );
        assert!(!has_capabilities(&status("0000000000000000")));
        assert!(!has_capabilities(&status("garbage")));
        assert!(!has_capabilities(""));
    }
}
