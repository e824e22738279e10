//! The lab stays up, to play with.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use afpacket_sim::Privilege;

use super::measure::Stage;
use super::report::Report;
use crate::table::{Table, write_out};

/// Starts the gateway again, says how to get at everything, and waits for SIGINT, SIGTERM or SIGHUP.
pub(super) fn keep(stage: &Stage, report: &Report, stdout_is_taken: bool) -> anyhow::Result<()> {
    let mut gateway = stage.gateway()?;
    let text = instructions(stage, report, gateway.socket());
    if stdout_is_taken {
        eprint!("{text}");
    } else {
        write_out(text.as_bytes())?;
    }
    gateway.run_until_told()?;
    gateway.stop()
}

fn instructions(stage: &Stage, report: &Report, socket: &Path) -> String {
    let process = format!("/proc/{}", std::process::id());
    let user = match stage.privilege {
        Privilege::Own => String::new(),
        Privilege::UserNamespace => {
            format!(" --user={process}/ns/user --preserve-credentials")
        }
    };
    let mut inside = Table::new(&["namespace", "to run a command there"]);
    for namespace in stage.lab.namespaces() {
        let fd = namespace.as_fd().as_raw_fd();
        inside.row([
            namespace.name().to_owned(),
            format!("nsenter{user} --net={process}/fd/{fd} ip -brief address"),
        ]);
    }
    let program = std::env::current_exe()
        .map_or_else(|_| "oncilla".into(), |path| path.display().to_string());
    let client = format!("{program} --socket {}", socket.display());
    let ping = report
        .pings
        .first()
        .map(|ping| format!("ping {}", ping.to))
        .unwrap_or_default();
    format!(
        "\nThe lab is up again, with the gateway between its hosts. In another terminal:\n\n{}\n\
         From a, `{ping}` crosses the gateway. The gateway itself:\n\n  \
         {client} show interfaces\n  {client} show neighbours\n  {client} show runtime\n  {client} trace --count 1\n\n\
         Ctrl-C ends all of it and leaves nothing behind.\n",
        inside.render()
    )
}
