//! `oncilla trace` and `oncilla capture`: packets on their way.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use control::client::Client;
use control_api::v1;

use crate::table::{Output, printable, write_out};

/// Arguments of `oncilla trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// How many packets; 0 for no limit.
    #[arg(short, long, default_value_t = 10)]
    count: u32,
    /// Only what is received on this interface.
    #[arg(short, long)]
    interface: Option<String>,
    /// How to print; JSON has one packet in a line.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `oncilla capture`.
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// The pcap file to write; `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// How many packets; 0 for no limit.
    #[arg(short, long, default_value_t = 0)]
    count: u32,
    /// Only at this interface.
    #[arg(short, long)]
    interface: Option<String>,
    /// Only what is received or only what is sent; both without it.
    #[arg(short, long, value_parser = ["rx", "tx"])]
    direction: Option<String>,
    /// Bytes to keep of each packet; 0 for all.
    #[arg(short, long = "snap", default_value_t = 0)]
    snap: u32,
}

/// Follows packets until there are enough, or Ctrl-C.
pub(crate) async fn trace(client: &mut Client, args: TraceArgs) -> anyhow::Result<()> {
    let request = v1::TraceRequest {
        count: args.count,
        interface: args.interface,
    };
    let mut packets = client.trace(request).await?;
    while let Some(packet) = next(&mut packets).await? {
        match args.output {
            Output::Json => write_out((serde_json::to_string(&packet)? + "\n").as_bytes())?,
            Output::Table => write_out(describe(&packet).as_bytes())?,
        }
    }
    Ok(())
}

/// Copies packets into a file until there are enough, or Ctrl-C.
pub(crate) async fn capture(client: &mut Client, args: CaptureArgs) -> anyhow::Result<()> {
    let request = v1::CaptureRequest {
        count: args.count,
        interface: args.interface,
        direction: args.direction,
        snap_length: args.snap,
    };
    let mut packets = client.capture(request).await?;
    let standard_output = args.write.as_os_str() == "-";
    let file: Box<dyn Write> = if standard_output {
        Box::new(io::stdout())
    } else {
        let create = || format!("cannot create {}", args.write.display());
        Box::new(File::create(&args.write).with_context(create)?)
    };
    let mut pcap = Pcap::new(BufWriter::new(file), args.snap)?;
    let mut count = 0u64;
    while let Some(packet) = next(&mut packets).await? {
        pcap.write(&packet)?;
        if standard_output {
            pcap.out.flush()?; // somebody watches
        }
        count += 1;
    }
    pcap.out.flush()?;
    eprintln!("{count} packets written to {}", args.write.display());
    Ok(())
}

/// The next packet; `None` at the end, or on Ctrl-C.
pub(crate) async fn next<T>(packets: &mut tonic::Streaming<T>) -> anyhow::Result<Option<T>> {
    tokio::select! {
        packet = packets.message() => {
            packet.map_err(|status| control::client::ClientError::from(status).into())
        }
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(None)
        }
    }
}

fn describe(packet: &v1::PacketTrace) -> String {
    let mut text = format!(
        "packet {}: {} bytes received on {}, worker {}\n",
        packet.number, packet.length, packet.interface, packet.worker
    );
    let width = packet
        .steps
        .iter()
        .map(|step| step.node.len())
        .max()
        .unwrap_or(0);
    for step in &packet.steps {
        let line = format!(
            "  {:<width$}  {}",
            printable(&step.node),
            printable(&step.text)
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes a pcap file with nanoseconds (draft-ietf-opsawg-pcap), Ethernet, little-endian.
struct Pcap<W: Write> {
    out: W,
}

impl<W: Write> Pcap<W> {
    const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
    const VERSION: [u16; 2] = [2, 4];
    const LINKTYPE_ETHERNET: u32 = 1;
    /// What readers accept as the longest packet.
    const SNAP_LENGTH: u32 = 262_144;

    fn new(mut out: W, snap_length: u32) -> io::Result<Self> {
        let snap_length = if snap_length == 0 {
            Self::SNAP_LENGTH
        } else {
            snap_length
        };
        out.write_all(&Self::MAGIC_NANOSECONDS.to_le_bytes())?;
        for part in Self::VERSION {
            out.write_all(&part.to_le_bytes())?;
        }
        out.write_all(&[0; 8])?; // reserved
        out.write_all(&snap_length.to_le_bytes())?;
        out.write_all(&Self::LINKTYPE_ETHERNET.to_le_bytes())?;
        Ok(Self { out })
    }

    fn write(&mut self, packet: &v1::CapturedPacket) -> io::Result<()> {
        let captured = u32::try_from(packet.data.len()).map_err(io::Error::other)?;
        let seconds = (packet.timestamp_ns / 1_000_000_000) as u32; // the format ends in 2106
        let nanoseconds = (packet.timestamp_ns % 1_000_000_000) as u32;
        for word in [
            seconds,
            nanoseconds,
            captured,
            packet.original_length.max(captured),
        ] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(&packet.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcap_is_byte_exact() {
        let mut pcap = Pcap::new(Vec::new(), 96).expect("writes");
        let packet = v1::CapturedPacket {
            timestamp_ns: 3_000_000_007,
            data: vec![0xab, 0xcd],
            original_length: 1500,
            ..Default::default()
        };
        pcap.write(&packet).expect("writes");
        #[rustfmt::skip] // one field in a line
        let expected = [
            0x4d, 0x3c, 0xb2, 0xa1,
            2, 0, 4, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            96, 0, 0, 0,
            1, 0, 0, 0,
            3, 0, 0, 0,
            7, 0, 0, 0,
            2, 0, 0, 0,
            0xdc, 0x05, 0, 0,
            0xab, 0xcd,
        ];
        assert_eq!(pcap.out, expected);
    }

    #[test]
    fn a_trace_has_a_line_for_each_node() {
        let step = |node: &str, text: &str| v1::TraceStep {
            node: node.into(),
            text: text.into(),
        };
        let packet = v1::PacketTrace {
            number: 1,
            length: 98,
            interface: "lan".into(),
            steps: vec![
                step("ethernet-input", "IP4"),
                step("ip4-lookup", "drop: no-route"),
            ],
            ..Default::default()
        };
        assert_eq!(
            describe(&packet),
            "packet 1: 98 bytes received on lan, worker 0\n  ethernet-input  IP4\n  ip4-lookup      drop: no-route\n"
        );
    }
}
