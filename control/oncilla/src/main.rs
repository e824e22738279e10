//! Oncilla: the userspace network dataplane; daemon, client, demo and bench in one binary.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod explain;
mod flows;
mod lines;
mod nat;
mod objects;
mod packets;
mod run;
mod show;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use control::client::Client;
use control::server::DEFAULT_SOCKET;

/// Control makes and drops many small values, some on one thread and some on another, and a transaction must not wait for a thread in the
/// background that holds the allocator's lock. Workers allocate nothing while packets pass.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Oncilla, a userspace network dataplane.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "oncilla", version, max_term_width = 120)]
struct Cli {
    /// The daemon's socket; the environment variable ONCILLA_SOCKET sets another default.
    #[arg(long, global = true, value_name = "PATH", default_value_os_t = default_socket())]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what forwarding costs on this machine.
    Bench(bench::Args),
    /// Show the gateway at work between three hosts, in namespaces of this machine.
    Demo(demo::Args),
    /// Run the daemon.
    Run(Box<run::Args>),
    /// Create or replace objects, all or none; answers when they are live.
    Apply(objects::ApplyArgs),
    /// Show objects of the desired state.
    Get(objects::GetArgs),
    /// Remove objects, all or none.
    Delete(objects::DeleteArgs),
    /// Show what applying files would change, and whether it would be refused.
    Diff(objects::DiffArgs),
    /// Check files without a daemon, as if they were everything there is.
    Validate(objects::ValidateArgs),
    /// Say what policies do with a packet, and which rule decides.
    Explain(explain::Args),
    /// Show what the dataplane does.
    Show(show::Args),
    /// Follow packets through the nodes.
    Trace(packets::TraceArgs),
    /// Copy packets at interfaces into a pcap file.
    Capture(packets::CaptureArgs),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Somebody reads only the first lines: `oncilla show routes | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let socket = cli.socket;
    match cli.command {
        Command::Bench(args) => bench::bench(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Run(args) => run::run(*args, socket),
        Command::Validate(args) => objects::validate(&args),
        Command::Explain(args) if !args.is_live() => explain::explain(&args),
        Command::Explain(args) => client(&socket, async |client| explain::live(client, args).await),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "oncilla", &mut script);
            table::write_out(&script)
        }
        Command::Apply(args) => client(&socket, async |client| objects::apply(client, args).await),
        Command::Get(args) => client(&socket, async |client| objects::get(client, args).await),
        Command::Delete(args) => {
            client(&socket, async |client| objects::delete(client, args).await)
        }
        Command::Diff(args) => client(&socket, async |client| objects::diff(client, args).await),
        Command::Show(args) => client(&socket, async |client| show::show(client, args).await),
        Command::Trace(args) => client(&socket, async |client| packets::trace(client, args).await),
        Command::Capture(args) => {
            client(&socket, async |client| packets::capture(client, args).await)
        }
    }
}

fn default_socket() -> PathBuf {
    std::env::var_os("ONCILLA_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

/// Connects, and works on one thread.
fn client(
    socket: &std::path::Path,
    work: impl AsyncFnOnce(&mut Client) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut client = Client::connect(socket).await?;
            work(&mut client).await
        })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_is_understood() {
        for line in [
            "oncilla apply -f - -o json",
            "oncilla get interfaces lan -o yaml",
            "oncilla delete route default-v4 --socket /tmp/x",
            "oncilla delete -f dir",
            "oncilla diff -f a.yaml --exit-code",
            "oncilla show routes --vrf red -o json",
            "oncilla show drops --by-rule",
            "oncilla show flows -p tcp --port 80 -a 10.0.0.0/8 --state established --limit 0",
            "oncilla show flow-log -o json -e lab/a --interval 5 --count 3",
            "oncilla trace --count 3 --interface lan",
            "oncilla capture -w x.pcap --direction rx --snap 96",
            "oncilla completion bash",
            "oncilla demo --json --quick --keep --pings 10 --seconds 0.5",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "oncilla",
            "oncilla delete",
            "oncilla delete route",
            "oncilla apply",
            "oncilla get port",
            "oncilla delete route x -f y",
            "oncilla show flows --port 0",
            "oncilla show flows --interface lan --endpoint lab/a",
            "oncilla show flow-log --interval 0",
            "oncilla show flow-log --interval 3601",
            "oncilla capture",
            "oncilla capture -w x --direction up",
            "oncilla demo --pings 0",
            "oncilla demo --json --sweep x",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
