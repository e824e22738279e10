//! What happened, as tables for people.

use super::report::Report;
use crate::table::{Table, printable};

/// Nodes with the most ticks that the table of nodes shows.
const BUSIEST: usize = 16;

/// All tables that there is something for.
pub(super) fn render(report: &Report) -> String {
    let sections = [
        pings(report),
        tcp(report),
        seen_from_hosts(report),
        trace(report),
        interfaces(report),
        nodes(report),
        drops(report),
        verdict(report),
    ];
    let mut text = format!("Oncilla between three hosts, on {}.\n", report.machine);
    for section in sections.iter().filter(|section| !section.is_empty()) {
        text.push('\n');
        text.push_str(section);
    }
    text
}

fn pings(report: &Report) -> String {
    let mut table = Table::new(&[
        "  PING",
        "FROM",
        "TO",
        ">SENT",
        ">ANSWERED",
        ">MIN",
        ">MEDIAN",
        ">P99",
        ">KERNEL",
        ">RATIO",
    ]);
    for ping in &report.pings {
        table.row([
            format!("  {}", ping.name),
            ping.from.to_owned(),
            ping.to.to_string(),
            ping.sent.to_string(),
            ping.received.to_string(),
            milliseconds(ping.rtt_min_ms),
            milliseconds(ping.rtt_median_ms),
            milliseconds(ping.rtt_p99_ms),
            milliseconds(ping.kernel_rtt_median_ms),
            ratio(ping.rtt_median_ms, ping.kernel_rtt_median_ms),
        ]);
    }
    titled(
        "Round trips in milliseconds, one request in each, as `ping -i 0.001` measures them (KERNEL: the median with Linux forwarding)",
        report.pings.is_empty(),
        &table,
    )
}

fn tcp(report: &Report) -> String {
    let mut table = Table::new(&[
        "  TCP",
        "FROM",
        "TO",
        ">GBIT/S",
        ">KERNEL",
        ">RATIO",
        ">RESENT",
        ">VERIFIED",
    ]);
    for tcp in &report.tcp {
        table.row([
            format!("  {}", tcp.name),
            tcp.from.to_owned(),
            tcp.to.to_string(),
            decimal(tcp.gbit_per_s, 2),
            decimal(tcp.kernel_gbit_per_s, 2),
            ratio(tcp.gbit_per_s, tcp.kernel_gbit_per_s),
            tcp.retransmits.to_string(),
            match tcp.intact {
                Some(true) => format!("{} MiB", tcp.verified_bytes >> 20),
                Some(false) => "DAMAGED".to_owned(),
                None => decimal(None, 0),
            },
        ]);
    }
    let title = "One TCP connection, the best run of each (KERNEL: with Linux forwarding)";
    titled(title, report.tcp.is_empty(), &table)
}

fn seen_from_hosts(report: &Report) -> String {
    let mut table = Table::new(&["  SEEN BY a", "", ""]);
    for traceroute in &report.traceroute {
        let hops = traceroute.hops.iter().map(|hop| {
            let address = hop
                .address
                .map_or("*".to_owned(), |address| address.to_string());
            let time = hop
                .rtt_ms
                .map(|ms| format!(" ({ms:.3} ms)"))
                .unwrap_or_default();
            format!("{} {address}{time}", hop.distance)
        });
        table.row([
            "  traceroute".to_owned(),
            traceroute.name.to_owned(),
            hops.collect::<Vec<_>>().join(", "),
        ]);
    }
    for found in &report.path_mtu {
        let mtu = found
            .path_mtu
            .map_or("not found".to_owned(), |mtu| format!("{mtu} bytes"));
        let by = found
            .router
            .map(|router| format!(", said by {router}"))
            .unwrap_or_default();
        table.row([
            "  path MTU".to_owned(),
            found.name.to_owned(),
            format!("{mtu}{by}"),
        ]);
    }
    if let Some(udp) = &report.udp {
        let text = format!(
            "{} of {} datagrams arrived, {} damaged, {} out of order",
            udp.received, udp.sent, udp.corrupted, udp.reordered
        );
        table.row(["  UDP".to_owned(), "ipv4".to_owned(), text]);
    }
    let nothing =
        report.traceroute.is_empty() && report.path_mtu.is_empty() && report.udp.is_none();
    titled("From a to b", nothing, &table)
}

fn trace(report: &Report) -> String {
    let mut table = Table::new(&["  NODE", "WHAT IT DID"]);
    for step in &report.trace {
        table.row([format!("  {}", step.node), step.text.clone()]);
    }
    titled(
        "The way of one ping through the gateway",
        report.trace.is_empty(),
        &table,
    )
}

fn interfaces(report: &Report) -> String {
    let mut table = Table::new(&[
        "  INTERFACE",
        ">MTU",
        ">RX-PACKETS",
        ">RX-BYTES",
        ">RX-DROPS",
        ">TX-PACKETS",
        ">TX-BYTES",
        ">TX-DROPS",
    ]);
    for interface in &report.interfaces {
        table.row([
            format!("  {}", interface.name),
            interface.mtu.to_string(),
            interface.rx_packets.to_string(),
            interface.rx_bytes.to_string(),
            (interface.rx_drops + interface.rx_discards).to_string(),
            interface.tx_packets.to_string(),
            interface.tx_bytes.to_string(),
            interface.tx_drops.to_string(),
        ]);
    }
    titled(
        "Interfaces of the gateway",
        report.interfaces.is_empty(),
        &table,
    )
}

fn nodes(report: &Report) -> String {
    let mut table = Table::new(&[
        "  NODE",
        ">CALLS",
        ">PACKETS",
        ">PACKETS/CALL",
        ">TICKS/PACKET",
    ]);
    let mut busiest: Vec<_> = report.runtime.iter().collect();
    busiest.sort_by_key(|node| std::cmp::Reverse(node.ticks));
    for node in busiest.iter().take(BUSIEST) {
        let per_call = (node.calls > 0).then(|| node.packets as f64 / node.calls as f64);
        table.row([
            format!("  {}", node.name),
            node.calls.to_string(),
            node.packets.to_string(),
            decimal(per_call, 2),
            decimal(node.ticks_per_packet, 0),
        ]);
    }
    let rest = busiest.len().saturating_sub(BUSIEST);
    let more = if rest > 0 {
        format!("; {rest} more in --json")
    } else {
        String::new()
    };
    let title = format!(
        "Nodes of the gateway, by time spent ({:.3} GHz ticks; a packet here may be a TCP segment of up to 64 KiB{more})",
        report.ticks_per_second as f64 * 1e-9
    );
    titled(&title, busiest.is_empty(), &table)
}

fn drops(report: &Report) -> String {
    let mut table = Table::new(&["  NODE", "REASON", ">PACKETS", "MEANING"]);
    for drop in &report.drops {
        table.row([
            format!("  {}", drop.node),
            drop.reason.clone(),
            drop.packets.to_string(),
            drop.text.clone(),
        ]);
    }
    titled("Drops of the gateway", report.drops.is_empty(), &table)
}

fn verdict(report: &Report) -> String {
    if report.problems.is_empty() {
        return "All of it worked: nothing lost, every byte as it was sent, the daemon stopped as told.\n".to_owned();
    }
    let mut text = "What went wrong:\n".to_owned();
    for problem in &report.problems {
        // The end of a log has lines of its own.
        for (number, line) in problem.lines().enumerate() {
            let mark = if number == 0 { "- " } else { "  " };
            text.push_str(&format!("  {mark}{}\n", printable(line)));
        }
    }
    text
}

fn titled(title: &str, is_empty: bool, table: &Table) -> String {
    if is_empty {
        return String::new();
    }
    format!("{title}:\n{}", table.render())
}

fn milliseconds(value: Option<f64>) -> String {
    decimal(value, 3)
}

fn decimal(value: Option<f64>, places: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.places$}"))
}

fn ratio(ours: Option<f64>, kernel: Option<f64>) -> String {
    let ratio = ours.zip(kernel).filter(|(_, kernel)| *kernel > 0.0);
    decimal(ratio.map(|(ours, kernel)| ours / kernel), 2)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::good;
    use super::*;

    /// The words of the first line that begins with `start`.
    fn words<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no line {start:?} in:\n{text}"))
            .split_whitespace()
            .collect()
    }

    #[test]
    fn measurements_stand_beside_the_kernels() {
        let text = render(&good());
        assert_eq!(
            words(&text, "ipv4"),
            [
                "ipv4",
                "a",
                "198.18.2.2",
                "1000",
                "1000",
                "0.040",
                "0.050",
                "0.090",
                "0.073",
                "0.68"
            ]
        );
        assert_eq!(
            words(&text, "vlan")[8..],
            ["-", "-"],
            "the kernel has no VLAN here"
        );
        assert_eq!(
            words(&text, "offloads-on"),
            [
                "offloads-on",
                "a",
                "198.18.2.2",
                "12.00",
                "16.00",
                "0.75",
                "4",
                "0",
                "MiB"
            ]
        );
        assert!(
            text.contains("1 198.18.1.1 (0.060 ms), 2 198.18.2.2 (0.060 ms)"),
            "{text}"
        );
        assert!(text.contains("1400 bytes, said by 198.18.1.1"), "{text}");
        assert_eq!(
            words(&text, "p0"),
            ["p0", "1500", "7", "0", "0", "0", "0", "0"]
        );
        assert!(text.contains("no route to the destination"), "{text}");
        assert!(text.contains("All of it worked"), "{text}");
    }

    #[test]
    fn what_is_missing_has_no_table() {
        let report = Report {
            problems: vec!["the daemon ended; the end of its log:\n  oh\x1b[2J".to_owned()],
            ..Report::default()
        };
        let text = render(&report);
        assert!(
            text.ends_with(
                "What went wrong:\n  - the daemon ended; the end of its log:\n      oh\u{fffd}[2J\n"
            ),
            "{text}"
        );
        assert!(!text.contains("TCP") && !text.contains("PING"), "{text}");
    }
}
