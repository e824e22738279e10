//! The daemon as a child process in the router's namespace, and the connection to it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use afpacket_sim::Namespace;
use anyhow::{Context, anyhow, bail};
use control::client::{Client, ClientError};
use control_api::v1::Object;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use super::directory::{Directory, THIS_PROGRAM};

/// How long the daemon may take to start, to answer, and to stop.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look whether a daemon still runs that nobody talks to.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of the daemon's log that an error shows.
const LOG_TAIL: usize = 20;

/// A running daemon. Dropping it kills it; so does the death of the thread that started it.
pub(super) struct Gateway {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    client: Client,
    /// Works only while a call is under way, and so takes no time from what is being measured.
    runtime: Runtime,
}

impl Gateway {
    /// Starts the daemon and waits until it answers. To be called on a thread that lives as long as the daemon should.
    pub(super) fn start(namespace: &Namespace, directory: &Directory) -> anyhow::Result<Self> {
        let socket = directory.path().join("oncilla.sock");
        let log = directory.path().join("log");
        let mut command = Command::new(THIS_PROGRAM);
        command
            .arg0("oncilla")
            .arg("--socket")
            .arg(&socket)
            .args(["run", "--store", "memory"])
            .stdin(Stdio::null())
            .stdout(directory.hold()?)
            .stderr(File::create(&log).context("cannot make the daemon's log file")?)
            // Ctrl-C is for the demo, which ends the daemon in its own time.
            .process_group(0);
        let mut command = namespace.command(command)?;
        let mut child = command.spawn().context("cannot start the daemon")?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(connect(&mut child, &socket, &log)) {
            Ok(client) => Ok(Self {
                child,
                socket,
                log,
                client,
                runtime,
            }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Applies objects in one transaction; they are live afterwards.
    pub(super) fn configure(&mut self, objects: Vec<Object>) -> anyhow::Result<()> {
        self.call(async |client| client.upsert(objects).await)
            .context("the daemon does not take its configuration")?;
        let info = self.call(Client::info)?;
        if let Some(fault) = info.not_live.first() {
            bail!("the configuration is not live: {fault}");
        }
        Ok(())
    }

    /// Asks the daemon; [`Gateway::explain`] makes more of an error.
    pub(super) fn call<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> anyhow::Result<T> {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, ask(&mut self.client)).await });
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(anyhow!(refusal(&error))),
            Err(_) => Err(anyhow!("the daemon does not answer within {PATIENCE:?}")),
        }
    }

    /// Waits for SIGINT, SIGTERM or SIGHUP; an error when the daemon ends first.
    pub(super) fn run_until_told(&mut self) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hang_up = signal(SignalKind::hangup())?;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    _ = hang_up.recv() => return Ok(()),
                    () = tokio::time::sleep(LOOK) => {}
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!(died(status, &self.log));
                }
            }
        })
    }

    /// How it ended, where it did.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error if the daemon ended during some work, for [`Gateway::explain`].
    pub(super) fn outlived(&mut self, work: &str) -> anyhow::Result<()> {
        match self.ended() {
            Some(_) => bail!("`{work}` was cut short"),
            None => Ok(()),
        }
    }

    /// An error, and with it why the daemon died, if it did.
    pub(super) fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        // What dies because of a request dies a little later than the request.
        thread::sleep(Duration::from_millis(50));
        match self.ended() {
            Some(status) => {
                let tail = tail(&self.log);
                anyhow!("the daemon ended ({status}), hence {error:#}; the end of its log:\n{tail}")
            }
            None => error,
        }
    }

    /// Asks the daemon to stop (SIGTERM) and waits for it.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended() {
            bail!(died(status, &self.log));
        }
        let pid = Pid::from_raw(self.child.id().try_into()?);
        kill(pid, Signal::SIGTERM).context("cannot send SIGTERM to the daemon")?;
        // The connection is served meanwhile: the daemon says good-bye to its clients before it ends.
        let waited = self.runtime.block_on(async {
            let ended = async {
                loop {
                    match self.child.try_wait()? {
                        Some(status) => return anyhow::Ok(status),
                        None => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            };
            tokio::time::timeout(PATIENCE, ended).await
        });
        match waited {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!(
                        "the daemon did not stop as it should: {}",
                        died(status, &self.log)
                    );
                }
                Ok(())
            }
            Err(_) => {
                let tail = tail(&self.log);
                bail!(
                    "the daemon did not stop within {PATIENCE:?} of SIGTERM; the end of its log:\n{tail}"
                )
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills and reaps; fails only where both are done already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

async fn connect(child: &mut Child, socket: &Path, log: &Path) -> anyhow::Result<Client> {
    let start = Instant::now();
    loop {
        let error = match Client::connect(socket).await {
            Ok(mut client) => match client.info().await {
                Ok(_) => return Ok(client),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if let Some(status) = child.try_wait()? {
            bail!(died(status, log));
        }
        if start.elapsed() > PATIENCE {
            let tail = tail(log);
            bail!(
                "the daemon does not start within {PATIENCE:?}: {error}; the end of its log:\n{tail}"
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything that is wrong with a transaction, not just the first.
fn refusal(error: &ClientError) -> String {
    match error {
        ClientError::Refused(refusal) => {
            let errors: Vec<String> = refusal.errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        }
        other => other.to_string(),
    }
}

fn died(status: ExitStatus, log: &Path) -> String {
    format!(
        "the daemon ended ({status}); the end of its log:\n{}",
        tail(log)
    )
}

/// The last lines of a file, indented.
fn tail(log: &Path) -> String {
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("  (cannot be read: {error})"),
    };
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return "  (it is empty)".to_owned();
    }
    let last = &lines[lines.len().saturating_sub(LOG_TAIL)..];
    let indented: Vec<String> = last.iter().map(|line| format!("  {line}")).collect();
    indented.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_end() {
        let directory = tempfile::tempdir().expect("makes a directory");
        let log = directory.path().join("log");
        assert!(tail(&log).contains("cannot be read"));
        fs::write(&log, "").expect("writes");
        assert_eq!(tail(&log), "  (it is empty)");
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        fs::write(&log, text).expect("writes");
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), LOG_TAIL);
        assert!(tail.ends_with("  line 99"), "{tail}");
    }
}
