//! The directory of a demo, which vanishes with it.
//!
//! A kill -9 gives nobody a chance to tidy up. So a second process makes the directory, and removes it when a pipe ends:
//! the demo and its daemon hold the other end, and the kernel closes that however they die.

use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, bail};

/// This program, also when its file has been replaced since it was started.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";

/// A path of a unix socket has at most 107 bytes; names inside the directory need some of them.
const LONGEST_PARENT: usize = 50;

/// A directory for this user alone. It is removed when this value is gone, and all holders with it.
pub(super) struct Directory {
    path: PathBuf,
    sweeper: Child,
    /// Closing it tells the sweeper.
    held: Option<ChildStdin>,
}

impl Directory {
    pub(super) fn make() -> anyhow::Result<Self> {
        let mut parent = std::env::temp_dir();
        if parent.as_os_str().as_bytes().len() > LONGEST_PARENT {
            parent = "/tmp".into();
        }
        let path = parent.join(format!("oncilla-demo-{}", std::process::id()));
        let mut sweeper = Command::new(THIS_PROGRAM)
            .arg0("oncilla")
            .args(["demo", "--sweep"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo; the sweeper has to outlive it.
            .process_group(0)
            .spawn()
            .context("cannot start a second process of this program")?;
        let mut said = [0; 1];
        let stdout = sweeper.stdout.take();
        let ready = stdout.is_some_and(|mut stdout| stdout.read_exact(&mut said).is_ok());
        if !ready {
            let output = sweeper.wait_with_output()?;
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.trim().trim_start_matches("error: ");
            bail!("{reason}; the environment variable TMPDIR names another place for it");
        }
        let held = sweeper.stdin.take();
        Ok(Self {
            path,
            sweeper,
            held,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For a child process that uses the directory: the directory stays while the child has it.
    pub(super) fn hold(&self) -> io::Result<Stdio> {
        let held = self.held.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(held.as_fd().try_clone_to_owned()?.into())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.held = None;
        // Nothing is left to be done where it fails.
        let _ = self.sweeper.wait();
    }
}

/// The second process: makes `path`, which must not exist yet, and removes it when standard input ends.
pub(super) fn sweep(path: &Path) -> anyhow::Result<()> {
    let make = DirBuilder::new().mode(0o700).create(path);
    make.with_context(|| format!("cannot make the directory {}", path.display()))?;
    let mut stdout = io::stdout();
    // Where nobody listens any more, the end of standard input says so too.
    let _ = stdout.write_all(b"\n").and_then(|()| stdout.flush());
    let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
    std::fs::remove_dir_all(path)
        .with_context(|| format!("cannot remove the directory {}", path.display()))?;
    ended.context("cannot read standard input")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_left_alone() {
        let existing = tempfile::tempdir().expect("makes a directory");
        let file = existing.path().join("file");
        std::fs::write(&file, "x").expect("writes");
        let error = sweep(existing.path()).expect_err("it exists");
        assert!(format!("{error:#}").contains("exists"), "{error:#}");
        assert!(file.exists());
    }
}
