//! A network namespace: run code, threads and programs in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::cannot;
use crate::rtnl::Rtnl;
use crate::{Result, SimError, inet6, sys};

/// Handle of a network namespace; clones name the same one.
///
/// The namespace is held by a file descriptor of this process alone: it vanishes, with all its
/// devices, when the last handle, socket, thread and child process in it is gone, also when this
/// process is killed.
#[derive(Debug, Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    fd: OwnedFd,
}

impl Namespace {
    /// Makes an empty namespace with its loopback device up. `name` serves messages and thread names only.
    ///
    /// # Errors
    /// [`SimError::System`] without `CAP_SYS_ADMIN`.
    pub fn new(name: &str) -> Result<Self> {
        let action = || format!("make network namespace `{name}`");
        let opened = thread::scope(|scope| {
            thread::Builder::new()
                .name(format!("ns-{name}"))
                .spawn_scoped(scope, || -> io::Result<OwnedFd> {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    Ok(File::open("/proc/thread-self/ns/net")?.into())
                })
                .map(join_or_resume)
        });
        let fd = opened.and_then(|fd| fd).map_err(cannot(action()))?;
        let namespace = Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                fd,
            }),
        };
        namespace.rtnl()?.set_up("lo", true)?;
        Ok(namespace)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`SimError::System`] where `/proc` is not mounted.
    pub fn current(name: &str) -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(cannot("open the network namespace of this thread"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                fd: file.into(),
            }),
        })
    }

    /// The name given when it was made.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The inode number that names it in `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// [`SimError::System`] when the descriptor cannot be examined.
    pub fn inode(&self) -> Result<u64> {
        let action = || format!("examine network namespace `{}`", self.name());
        let fd = self.duplicate()?;
        Ok(File::from(fd)
            .metadata()
            .map_err(cannot(action()))?
            .st_ino())
    }

    /// Runs `work` on a thread inside the namespace and waits for it. A panic of `work` is passed on.
    ///
    /// # Errors
    /// [`SimError::System`] when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let action = || format!("enter network namespace `{}`", self.name());
        thread::scope(|scope| {
            let started = thread::Builder::new()
                .name(format!("ns-{}", self.name()))
                .spawn_scoped(scope, || -> io::Result<T> {
                    setns(&self.shared.fd, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                });
            started.and_then(join_or_resume).map_err(cannot(action()))
        })
    }

    /// Starts a thread inside the namespace; returns when the thread is in it.
    ///
    /// # Errors
    /// [`SimError::System`] when the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread_name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Task<T>> {
        let action = || {
            format!(
                "start thread `{thread_name}` in network namespace `{}`",
                self.name()
            )
        };
        let (entered, is_in) = mpsc::sync_channel(1);
        let namespace = self.clone();
        let body = move || {
            let result = setns(&namespace.shared.fd, CloneFlags::CLONE_NEWNET);
            // The thread's own membership keeps the namespace alive from here on.
            drop(namespace);
            let is_inside = result.is_ok();
            // The receiver waits for exactly this message.
            let _ = entered.send(result);
            is_inside.then(work)
        };
        let builder = thread::Builder::new().name(thread_name.to_owned());
        let handle = builder.spawn(body).map_err(cannot(action()))?;
        match is_in.recv() {
            Ok(Ok(())) => Ok(Task {
                name: thread_name.to_owned(),
                handle,
            }),
            Ok(Err(errno)) => Err(cannot(action())(errno)),
            Err(_) => Err(cannot(action())(io::Error::other("the thread ended early"))),
        }
    }

    /// Makes `command` start its program inside the namespace.
    ///
    /// The child is killed when the *thread* that started it ends, however it ends
    /// (`PR_SET_PDEATHSIG`): start it from a thread that lives as long as the child should.
    ///
    /// # Errors
    /// [`SimError::System`] when no file descriptor is left.
    pub fn command(&self, mut command: Command) -> Result<Command> {
        sys::process::enter_on_exec(&mut command, self.duplicate()?);
        Ok(command)
    }

    /// Opens a netlink socket for the links, addresses, routes and neighbours of the namespace.
    ///
    /// # Errors
    /// [`SimError::System`] when it cannot be opened.
    pub fn rtnl(&self) -> Result<Rtnl> {
        self.run(|| Rtnl::open(self.name()))?
    }

    /// Reads a setting of the network stack, such as `net/ipv4/ip_forward`; the newline is cut.
    ///
    /// # Errors
    /// [`SimError::System`] when there is no such setting.
    pub fn sysctl(&self, path: &str) -> Result<String> {
        // /proc/sys/net shows the namespace of the thread that reads it.
        let text = self.run(|| fs::read_to_string(format!("/proc/sys/{path}")))?;
        let text = text.map_err(cannot(format!(
            "read {path} in namespace `{}`",
            self.name()
        )))?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes settings of the network stack, such as `("net/ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// [`SimError::System`] at the first that is refused or unknown.
    pub fn set_sysctls<P: AsRef<str> + Sync>(&self, settings: &[(P, &str)]) -> Result<()> {
        self.run(|| {
            for (path, value) in settings {
                let path = path.as_ref();
                fs::write(format!("/proc/sys/{path}"), value).map_err(cannot(format!(
                    "set {path}={value} in namespace `{}`",
                    self.name()
                )))?;
            }
            Ok(())
        })?
    }

    /// Like [`Namespace::set_sysctls`], but passes over settings that this kernel does not have or
    /// does not show to a user namespace.
    pub(crate) fn set_optional_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (path, value) in settings {
                match fs::write(format!("/proc/sys/{path}"), value) {
                    Err(error)
                        if !matches!(
                            error.kind(),
                            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                        ) =>
                    {
                        let action = format!("set {path}={value} in namespace `{}`", self.name());
                        return Err(cannot(action)(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })?
    }

    /// Waits until all IPv6 addresses of the namespace answer neighbour solicitations. The kernel adds an address at
    /// once, but joins its solicited-node group a little later; a question in between stays unanswered for a second.
    ///
    /// # Errors
    /// [`SimError::TimedOut`] when they do not within `patience`, [`SimError::System`] where `/proc` is not mounted.
    pub fn wait_addresses_answer(&self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        self.run(|| {
            loop {
                // Without IPv6 in the kernel the files are missing, and there is nothing to wait for.
                let read = |file: &str| match fs::read_to_string(format!(
                    "/proc/thread-self/net/{file}"
                )) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                    result => result.map_err(cannot(format!("read /proc/net/{file}"))),
                };
                if inet6::all_answer(&read("if_inet6")?, &read("igmp6")?) {
                    return Ok(());
                }
                if start.elapsed() > patience {
                    let what = format!("IPv6 addresses of namespace `{}` coming up", self.name());
                    return Err(SimError::TimedOut {
                        what,
                        after: patience,
                    });
                }
                thread::sleep(Duration::from_millis(2));
            }
        })?
    }

    fn duplicate(&self) -> Result<OwnedFd> {
        let action = || format!("duplicate the descriptor of namespace `{}`", self.name());
        self.shared.fd.try_clone().map_err(cannot(action()))
    }
}

/// A thread inside a namespace, started by [`Namespace::spawn`]. Dropping it does not end the thread.
#[derive(Debug)]
pub struct Task<T> {
    name: String,
    handle: JoinHandle<Option<T>>,
}

impl<T> Task<T> {
    /// Waits for the thread to end.
    ///
    /// # Errors
    /// [`SimError::ThreadPanicked`] when it panicked.
    pub fn join(self) -> Result<T> {
        match self.handle.join() {
            Ok(Some(value)) => Ok(value),
            Ok(None) | Err(_) => Err(SimError::ThreadPanicked(self.name)),
        }
    }

    /// Whether the thread has ended, so that [`Task::join`] returns at once.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }
}

/// The result of a thread; its panic goes on in the caller.
fn join_or_resume<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
