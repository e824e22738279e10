//! `apply`, `get`, `delete`, `diff`, `validate`: the desired state.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use control::client::{Client, ClientError};
use control::convert;
use control::yaml::{self, Document};
use control_api::v1::{self, ChangeAction, Object, ObjectKey, object::Spec};
use control_api::{KINDS, Refusal};
use serde::Serialize;

use crate::lines::{Line, difference};
use crate::table::{Output, Table, print_json, write_out};

/// Where objects are read from.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// A file of objects (YAML or JSON), a directory of them, or `-` for standard input; may be repeated.
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
}

/// Arguments of `oncilla apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    files: Files,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
    /// Refuse unless the desired state is at this generation.
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `oncilla get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// `interface`, `address`, `route`, `neighbour`, `vrf`, `natpool`, `natrule`, `portforward`, `staticnat`, a kind of policy such as
    /// `networkpolicy`, or `all`.
    #[arg(value_parser = kind_or_all)]
    kind: &'static str,
    /// One object's name (`namespace/name` where the kind has namespaces); all of the kind without it.
    name: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: GetOutput,
}

/// How `oncilla get` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum GetOutput {
    /// For people.
    #[default]
    Table,
    /// As `oncilla apply` reads it.
    Yaml,
    /// As `oncilla apply` reads it.
    Json,
}

/// Arguments of `oncilla delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// `interface`, `address`, `route`, `neighbour`, `vrf`, `natpool`, `natrule`, `portforward`, `staticnat`, or a kind of policy such as
    /// `networkpolicy`.
    #[arg(value_parser = kind, required_unless_present = "files", requires = "names", conflicts_with = "files")]
    kind: Option<&'static str>,
    /// The objects' names.
    names: Vec<String>,
    /// Remove the objects that a file or directory names; may be repeated.
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `oncilla diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    files: Files,
    /// Exit with 1 if there is a difference.
    #[arg(long)]
    exit_code: bool,
}

/// Arguments of `oncilla validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    files: Files,
}

/// Applies files.
pub(crate) async fn apply(client: &mut Client, args: ApplyArgs) -> anyhow::Result<()> {
    let documents = load(&args.files.files)?;
    let request = v1::ApplyRequest {
        upserts: documents
            .iter()
            .map(|document| document.object.clone())
            .collect(),
        dry_run: args.dry_run,
        expected_generation: args.expect,
        ..Default::default()
    };
    let answer = client
        .apply(request)
        .await
        .map_err(|error| explain(error, &documents))?;
    report(&answer, args.dry_run, args.output)
}

/// Shows objects.
pub(crate) async fn get(client: &mut Client, args: GetArgs) -> anyhow::Result<()> {
    let objects = match (&args.name, args.kind) {
        (Some(_), ALL) => bail!("a name needs a kind: one of {}", KINDS.join(", ")),
        (Some(name), kind) => vec![client.object(kind, name).await?],
        (None, ALL) => client.list(&[]).await?.1,
        (None, kind) => client.list(&[kind]).await?.1,
    };
    let text = match args.output {
        GetOutput::Yaml => yaml::to_yaml(&objects)?,
        GetOutput::Json if args.name.is_some() => serde_json::to_string_pretty(&objects[0])? + "\n",
        GetOutput::Json => yaml::to_json(&objects)? + "\n",
        GetOutput::Table => {
            let mut table = Table::new(&["KIND", "NAME", ">GENERATION", "SPEC"]);
            for object in &objects {
                let metadata = object.metadata.clone().unwrap_or_default();
                let generation = metadata.generation.to_string();
                table.row([
                    object.kind.clone(),
                    metadata.name,
                    generation,
                    summary(object),
                ]);
            }
            table.render()
        }
    };
    write_out(text.as_bytes())
}

/// Removes objects.
pub(crate) async fn delete(client: &mut Client, args: DeleteArgs) -> anyhow::Result<()> {
    let (deletes, documents) = match args.kind {
        Some(kind) => {
            let key = |name| ObjectKey {
                kind: kind.to_owned(),
                name,
            };
            (args.names.into_iter().map(key).collect(), Vec::new())
        }
        None => {
            let documents = load(&args.files)?;
            (
                documents
                    .iter()
                    .map(|document| document.object.key())
                    .collect(),
                documents,
            )
        }
    };
    let answer = client
        .delete(deletes)
        .await
        .map_err(|error| explain(error, &documents))?;
    report(&answer, false, args.output)
}

/// Shows what applying files would change.
pub(crate) async fn diff(client: &mut Client, args: DiffArgs) -> anyhow::Result<()> {
    let documents = load(&args.files.files)?;
    let request = v1::ApplyRequest {
        upserts: documents
            .iter()
            .map(|document| document.object.clone())
            .collect(),
        dry_run: true,
        ..Default::default()
    };
    let answer = client
        .apply(request)
        .await
        .map_err(|error| explain(error, &documents))?;
    let mut text = String::new();
    for (change, document) in answer.changes.iter().zip(&documents) {
        let key = document.object.key();
        let old = match change.action() {
            ChangeAction::Updated => Some(declared(client.object(&key.kind, &key.name).await?)),
            ChangeAction::Created => None,
            _ => continue,
        };
        let name = if old.is_some() {
            key.to_string()
        } else {
            "(none)".to_owned()
        };
        let old = yaml::to_yaml(&old)?;
        let new = yaml::to_yaml([&declared(document.object.clone())])?;
        writeln!(
            text,
            "--- {name}\n+++ {key} ({}, document {})",
            document.origin.source, document.origin.document
        )?;
        for line in difference(&old, &new) {
            match line {
                Line::Same(line) => writeln!(text, " {line}")?,
                Line::Removed(line) => writeln!(text, "-{line}")?,
                Line::Added(line) => writeln!(text, "+{line}")?,
            }
        }
    }
    write_out(text.as_bytes())?;
    if args.exit_code && !text.is_empty() {
        bail!("there are differences");
    }
    Ok(())
}

/// Checks files without a daemon.
pub(crate) fn validate(args: &ValidateArgs) -> anyhow::Result<()> {
    let documents = load(&args.files.files)?;
    let errors = convert::validate(documents.iter().map(|document| &document.object));
    if !errors.is_empty() {
        let refusal = Refusal::new(tonic::Code::InvalidArgument, errors);
        return Err(explain(ClientError::Refused(refusal), &documents));
    }
    write_out(format!("{} objects are valid\n", documents.len()).as_bytes())
}

const ALL: &str = "all";

/// A kind as people write it: in any case, in plural, in American spelling.
fn kind(text: &str) -> Result<&'static str, String> {
    let lower = text.to_lowercase().replace("neighbor", "neighbour");
    let known = KINDS.iter().find(|kind| {
        let kind = kind.to_lowercase();
        let ies = kind.strip_suffix('y').map(|stem| format!("{stem}ies"));
        lower == kind
            || lower == format!("{kind}s")
            || lower == format!("{kind}es")
            || Some(&lower) == ies.as_ref()
    });
    known
        .copied()
        .ok_or_else(|| format!("no kind; there are {}", KINDS.join(", ")))
}

fn kind_or_all(text: &str) -> Result<&'static str, String> {
    if text.eq_ignore_ascii_case(ALL) {
        Ok(ALL)
    } else {
        kind(text)
    }
}

fn load(files: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    match yaml::load_paths(files) {
        Ok(documents) if documents.is_empty() => bail!("there is no object in what was given"),
        Ok(documents) => Ok(documents),
        Err(errors) => {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("\n       "))
        }
    }
}

/// What the daemon says is wrong, with the place in the files.
fn explain(error: ClientError, documents: &[Document]) -> anyhow::Error {
    let ClientError::Refused(refusal) = &error else {
        return error.into();
    };
    let mut text = String::from("refused, nothing has changed");
    for error in &refusal.errors {
        let place = documents
            .iter()
            .find(|document| error.object.as_ref() == Some(&document.object.key()))
            .map(|document| &document.origin);
        text.push_str("\n  ");
        if let Some(origin) = place {
            text.push_str(&format!(
                "{}:{}: document {}: ",
                origin.source, origin.line, origin.document
            ));
        }
        text.push_str(&error.to_string());
    }
    if refusal.total > refusal.errors.len() {
        text.push_str(&format!(
            "\n  and {} more",
            refusal.total - refusal.errors.len()
        ));
    }
    anyhow::anyhow!(text)
}

#[derive(Serialize)]
struct Report {
    generation: u64,
    #[serde(rename = "dryRun")]
    dry_run: bool,
    changes: Vec<ReportedChange>,
}

#[derive(Serialize)]
struct ReportedChange {
    kind: String,
    name: String,
    action: &'static str,
}

fn report(answer: &v1::ApplyResponse, dry_run: bool, output: Output) -> anyhow::Result<()> {
    let changes = answer.changes.iter().map(|change| {
        let key = change.object.clone().unwrap_or_default();
        let action = match change.action() {
            ChangeAction::Created => "created",
            ChangeAction::Updated => "updated",
            ChangeAction::Unchanged => "unchanged",
            ChangeAction::Deleted => "deleted",
            ChangeAction::Unspecified => "unknown",
        };
        ReportedChange {
            kind: key.kind,
            name: key.name,
            action,
        }
    });
    let report = Report {
        generation: answer.generation,
        dry_run,
        changes: changes.collect(),
    };
    if output == Output::Json {
        return print_json(&report);
    }
    let mut text = String::new();
    for change in &report.changes {
        let would = if dry_run { " (dry run)" } else { "" };
        writeln!(
            text,
            "{}/{} {}{would}",
            change.kind, change.name, change.action
        )?;
    }
    if dry_run {
        writeln!(
            text,
            "nothing has changed: generation {}",
            report.generation
        )?;
    } else {
        writeln!(text, "live at generation {}", report.generation)?;
    }
    write_out(text.as_bytes())
}

/// Without what the server sets.
fn declared(mut object: Object) -> Object {
    if let Some(metadata) = &mut object.metadata {
        metadata.uid.clear();
        metadata.generation = 0;
        metadata.creation_timestamp.clear();
    }
    object
}

/// A specification in a line.
fn summary(object: &Object) -> String {
    let vrf = |vrf: &Option<String>| match vrf {
        Some(vrf) => format!(" vrf {vrf}"),
        None => String::new(),
    };
    match &object.spec {
        None => String::new(),
        Some(Spec::Vrf(spec)) => spec.description.clone().unwrap_or_default(),
        Some(Spec::Interface(spec)) => {
            let mut text = match (&spec.af_packet, &spec.vlan) {
                (Some(port), _) => format!("device {}", port.device),
                (None, Some(vlan)) => {
                    let outer = vlan.outer_id.map(|id| format!("{id}.")).unwrap_or_default();
                    format!("vlan {outer}{} of {}", vlan.id, vlan.parent)
                }
                (None, None) => String::new(),
            };
            if let Some(mtu) = spec.mtu {
                text.push_str(&format!(" mtu {mtu}"));
            }
            text.push_str(&vrf(&spec.vrf));
            if spec.admin_up == Some(false) {
                text.push_str(" down");
            }
            text
        }
        Some(Spec::Address(spec)) => format!("{} on {}", spec.address, spec.interface),
        Some(Spec::Route(spec)) => {
            let hops: Vec<String> = spec
                .next_hops
                .iter()
                .map(|hop| match (&hop.via, &hop.interface) {
                    (Some(via), Some(interface)) => format!("via {via} on {interface}"),
                    (Some(via), None) => format!("via {via}"),
                    (None, Some(interface)) => format!("on {interface}"),
                    (None, None) => String::new(),
                })
                .collect();
            let way = if hops.is_empty() {
                spec.r#type.clone().unwrap_or_default()
            } else {
                hops.join(", ")
            };
            format!("{} {way}{}", spec.destination, vrf(&spec.vrf))
        }
        Some(Spec::Neighbour(spec)) => {
            format!(
                "{} is {} on {}",
                spec.address, spec.mac_address, spec.interface
            )
        }
        Some(Spec::NatPool(spec)) => {
            let what = if spec.interface_address {
                "address of the interface".into()
            } else {
                spec.addresses.join(", ")
            };
            let ports = spec
                .ports
                .as_ref()
                .map(|ports| format!(" ports {}", range(ports)));
            format!("{what}{}{}", ports.unwrap_or_default(), vrf(&spec.vrf))
        }
        Some(Spec::NatRule(spec)) => nat_rule_summary(spec) + &vrf(&spec.vrf),
        Some(Spec::PortForward(spec)) => {
            let what = match (&spec.address, &spec.interface) {
                (Some(address), _) => address.clone(),
                (None, interface) => interface.clone().unwrap_or_default(),
            };
            let port = spec.port.map(|port| format!(" {port}"));
            let ports = spec
                .ports
                .as_ref()
                .map(|ports| format!(" {}", range(ports)));
            let target = spec.target_port.map(|port| format!(" {port}"));
            let source = spec
                .source_pool
                .as_ref()
                .map(|pool| format!(" from {pool}"));
            format!(
                "{what} {}{} to {}{}{}{}",
                spec.protocol,
                port.or(ports).unwrap_or_default(),
                spec.target_address,
                target.unwrap_or_default(),
                source.unwrap_or_default(),
                vrf(&spec.vrf)
            )
        }
        Some(Spec::StaticNat(spec)) => {
            format!(
                "{} is {}{}{}",
                spec.external,
                spec.internal,
                listed(" out ", &spec.out_interfaces),
                vrf(&spec.vrf)
            )
        }
        Some(Spec::Document(spec)) => document_summary(&spec.json),
    }
}

fn range(ports: &v1::PortRange) -> String {
    format!("{}-{}", ports.first, ports.last)
}

/// What a list says, with a word in front; nothing if it is empty.
fn listed(word: &str, list: &[String]) -> String {
    if list.is_empty() {
        String::new()
    } else {
        format!("{word}{}", list.join(", "))
    }
}

fn nat_rule_summary(spec: &v1::NatRuleSpec) -> String {
    let mut text = match spec.order {
        Some(order) => format!("{order}: "),
        None => String::new(),
    };
    text.push_str(spec.protocol.as_deref().unwrap_or("any"));
    text.push_str(&listed(" from ", &spec.sources));
    text.push_str(&listed(" to ", &spec.destinations));
    text.push_str(&listed(" not to ", &spec.not_destinations));
    text.push_str(&listed(" out ", &spec.out_interfaces));
    match &spec.pool {
        Some(pool) => text.push_str(&format!(" pool {pool}")),
        None => text.push_str(" exempt"),
    }
    text
}

/// What says most about an object of policy.
fn document_summary(json: &str) -> String {
    const FIELDS: [&str; 10] = [
        "node",
        "interfaceName",
        "interface",
        "direction",
        "tier",
        "order",
        "selector",
        "ipNetworks",
        "cidr",
        "natOutgoing",
    ];
    let document: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(list) => {
            let texts: Vec<_> = list.iter().filter_map(serde_json::Value::as_str).collect();
            texts.join(", ")
        }
        other => other.to_string(),
    };
    let fields: Vec<_> = FIELDS
        .iter()
        .filter_map(|field| {
            Some(format!(
                "{field} {}",
                text(document.get("spec")?.get(field)?)
            ))
        })
        .collect();
    fields.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_understood_as_people_write_them() {
        for (text, expected) in [
            ("interface", "Interface"),
            ("Interfaces", "Interface"),
            ("address", "Address"),
            ("addresses", "Address"),
            ("neighbors", "Neighbour"),
            ("NEIGHBOUR", "Neighbour"),
            ("vrf", "Vrf"),
            ("vrfs", "Vrf"),
            ("routes", "Route"),
            ("networkpolicies", "NetworkPolicy"),
            ("GlobalNetworkPolicy", "GlobalNetworkPolicy"),
            ("accesslists", "AccessList"),
            ("natpools", "NatPool"),
            ("PortForward", "PortForward"),
            ("staticnats", "StaticNat"),
        ] {
            assert_eq!(kind(text), Ok(expected));
        }
        assert!(kind("port").is_err() && kind("all").is_err() && kind_or_all("all").is_ok());
    }
}
