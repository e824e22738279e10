//! Objects as documents hold them: which kinds there are, and how each is read.

use std::fmt;

use super::access::{AccessList, read_access_list};
use super::endpoint::{
    HostEndpoint, Labelled, NetworkSet, Profile, WorkloadEndpoint, check_labels, read_host,
    read_network_set, read_profile, read_workload,
};
use super::felix::{FelixConfiguration, read_felix};
use super::id::{PolicyId, PolicyKind};
use super::ip_pool::{IpPool, read_ip_pool};
use super::network_policy::{self, Policy};
use super::reader::{Errors, FieldError, Fields, Node, Path};
use super::service::{EndpointSlice, read_slice};
use super::tier::{Tier, read_tier};
use super::value::Value;
use super::{Labels, cluster, kubernetes};
use crate::ObjectName;

/// The kinds of documents that say something about policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `projectcalico.org/v3` Tier.
    Tier,
    /// Any kind of policy.
    Policy(PolicyKind),
    /// `projectcalico.org/v3` Profile.
    Profile,
    /// `projectcalico.org/v3` NetworkSet.
    NetworkSet,
    /// `projectcalico.org/v3` GlobalNetworkSet.
    GlobalNetworkSet,
    /// `projectcalico.org/v3` HostEndpoint.
    HostEndpoint,
    /// `projectcalico.org/v3` WorkloadEndpoint.
    WorkloadEndpoint,
    /// `projectcalico.org/v3` FelixConfiguration.
    FelixConfiguration,
    /// `v1` Namespace.
    Namespace,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `oncilla.io/v1` AccessList.
    AccessList,
    /// `projectcalico.org/v3` IPPool.
    IpPool,
}

const CALICO: &str = "projectcalico.org/v3";

impl ResourceKind {
    /// All of them, each with its API version and the kind that documents of it name.
    pub const ALL: [(Self, &str, &str); 19] = [
        (Self::Tier, CALICO, "Tier"),
        (
            Self::Policy(PolicyKind::GlobalNetworkPolicy),
            CALICO,
            "GlobalNetworkPolicy",
        ),
        (
            Self::Policy(PolicyKind::NetworkPolicy),
            CALICO,
            "NetworkPolicy",
        ),
        (
            Self::Policy(PolicyKind::StagedGlobalNetworkPolicy),
            CALICO,
            "StagedGlobalNetworkPolicy",
        ),
        (
            Self::Policy(PolicyKind::StagedNetworkPolicy),
            CALICO,
            "StagedNetworkPolicy",
        ),
        (
            Self::Policy(PolicyKind::StagedKubernetesNetworkPolicy),
            CALICO,
            "StagedKubernetesNetworkPolicy",
        ),
        (
            Self::Policy(PolicyKind::KubernetesNetworkPolicy),
            "networking.k8s.io/v1",
            "NetworkPolicy",
        ),
        (
            Self::Policy(PolicyKind::KubernetesClusterNetworkPolicy),
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
        ),
        (Self::Profile, CALICO, "Profile"),
        (Self::NetworkSet, CALICO, "NetworkSet"),
        (Self::GlobalNetworkSet, CALICO, "GlobalNetworkSet"),
        (Self::HostEndpoint, CALICO, "HostEndpoint"),
        (Self::WorkloadEndpoint, CALICO, "WorkloadEndpoint"),
        (Self::FelixConfiguration, CALICO, "FelixConfiguration"),
        (Self::Namespace, "v1", "Namespace"),
        (Self::ServiceAccount, "v1", "ServiceAccount"),
        (Self::EndpointSlice, "discovery.k8s.io/v1", "EndpointSlice"),
        (Self::AccessList, "oncilla.io/v1", "AccessList"),
        (Self::IpPool, CALICO, "IPPool"),
    ];

    /// The kind of documents with this API version and kind.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(_, version, name)| *version == api_version && *name == kind)
            .map(|(kind, ..)| kind)
    }

    /// The API version that documents of it name.
    pub fn api_version(self) -> &'static str {
        self.row().1
    }

    /// The kind that documents of it name.
    pub fn as_str(self) -> &'static str {
        self.row().2
    }

    /// A name that no other kind has: Kubernetes' policies are called as Calico calls them, others as documents do.
    pub fn unique(self) -> &'static str {
        match self {
            Self::Policy(kind) => kind.as_str(),
            other => other.as_str(),
        }
    }

    fn row(self) -> (Self, &'static str, &'static str) {
        // The table holds every kind; the first row stands in only to have no panic here.
        Self::ALL
            .into_iter()
            .find(|(kind, ..)| *kind == self)
            .unwrap_or(Self::ALL[0])
    }

    /// Whether its objects are in a namespace.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Policy(kind) => kind.is_namespaced(),
            Self::NetworkSet
            | Self::WorkloadEndpoint
            | Self::ServiceAccount
            | Self::EndpointSlice => true,
            _ => false,
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its namespace, if the kind has them.
    pub namespace: Option<Box<str>>,
    /// Its name.
    pub name: Box<str>,
}

/// `Kind/name` or `Kind/namespace/name`.
impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A tier.
    Tier(Tier),
    /// A policy of any kind.
    Policy(Box<Policy>),
    /// A profile.
    Profile(Profile),
    /// A set of networks, of a namespace or global.
    NetworkSet(NetworkSet),
    /// A host's interface.
    HostEndpoint(HostEndpoint),
    /// A workload's place in the network.
    WorkloadEndpoint(Box<WorkloadEndpoint>),
    /// What changes verdicts on nodes.
    FelixConfiguration(Box<FelixConfiguration>),
    /// A namespace's labels.
    Namespace(Labelled),
    /// A service account's labels.
    ServiceAccount(Labelled),
    /// A part of a service's endpoints.
    EndpointSlice(EndpointSlice),
    /// Rules on an interface.
    AccessList(AccessList),
    /// Addresses of workloads.
    IpPool(IpPool),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which one.
    pub id: ResourceId,
    /// What it says.
    pub resource: Resource,
}

/// Everything that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ObjectError {
    /// `Kind/name`, as far as known.
    pub object: String,
    /// Never empty.
    pub errors: Vec<FieldError>,
}

/// A line `Kind/name: field: message` for each.
impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            for part in [&self.object, &error.field] {
                if !part.is_empty() {
                    write!(f, "{part}: ")?;
                }
            }
            f.write_str(&error.message)?;
        }
        Ok(())
    }
}

/// What every object has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Labels,
}

impl Object {
    /// Reads a document of any of the kinds.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn read(document: &Value) -> Result<Self, ObjectError> {
        let errors = Errors::default();
        let root = Node {
            value: document,
            path: Path::default(),
            errors: &errors,
        };
        let (object, known) = read_object(&root);
        let errors = errors.into_inner();
        match object {
            Some(object) if errors.is_empty() => Ok(object),
            _ => Err(ObjectError {
                object: known,
                errors,
            }),
        }
    }
}

/// The object, and its name as far as known.
fn read_object(root: &Node<'_>) -> (Option<Object>, String) {
    let Some(mut fields) = root.fields() else {
        return (None, String::new());
    };
    let version = fields.required_text("apiVersion").unwrap_or_default();
    let name = fields.required_text("kind").unwrap_or_default();
    let kind = ResourceKind::of(version, name);
    if kind.is_none() && !name.is_empty() && !version.is_empty() {
        let versions: Vec<_> = ResourceKind::ALL
            .into_iter()
            .filter(|(_, _, known)| *known == name)
            .map(|(_, version, _)| version)
            .collect();
        if versions.is_empty() {
            let message =
                format!("value is {name:?}; it must be a kind of {version} that is known");
            fields.fail("kind", message);
        } else {
            let message = format!(
                "value is {version:?}; for kind {name} it must be {}",
                versions.join(" or ")
            );
            fields.fail("apiVersion", message);
        }
    }
    let metadata = match fields.required("metadata") {
        Some(node) => read_metadata(&node),
        None => Metadata::default(),
    };
    let known = match &metadata.namespace {
        Some(namespace) => format!("{name}/{namespace}/{}", metadata.name),
        None => format!("{name}/{}", metadata.name),
    };
    let Some(kind) = kind else {
        return (None, known);
    };
    match (&metadata.namespace, kind.is_namespaced()) {
        (None, true) => fields.fail("metadata.namespace", "required"),
        (Some(_), false) => fields.fail(
            "metadata.namespace",
            format!("a {kind} is in no namespace: leave it out"),
        ),
        _ => {}
    }
    let resource = read_resource(&mut fields, kind, &metadata);
    fields.skip(&["status"]);
    fields.finish();
    let id = ResourceId {
        kind,
        namespace: metadata.namespace.map(String::into_boxed_str),
        name: metadata.name.into_boxed_str(),
    };
    (resource.map(|resource| Object { id, resource }), known)
}

fn read_metadata(node: &Node<'_>) -> Metadata {
    let Some(mut fields) = node.fields() else {
        return Metadata::default();
    };
    let mut name_of = |name, required| {
        let node = if required {
            fields.required(name)
        } else {
            fields.take(name)
        }?;
        let text = node.text()?;
        node.check(ObjectName::new(text))?;
        Some(text.to_owned())
    };
    let metadata = Metadata {
        name: name_of("name", true).unwrap_or_default(),
        namespace: name_of("namespace", false),
        labels: fields
            .take("labels")
            .map(|node| check_labels(&node))
            .unwrap_or_default(),
    };
    if let Some(node) = fields.take("annotations") {
        node.string_map();
    }
    // Set by servers, and there in what is taken from them.
    fields.skip(&[
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "selfLink",
    ]);
    fields.finish();
    metadata
}

fn read_resource(
    fields: &mut Fields<'_>,
    kind: ResourceKind,
    metadata: &Metadata,
) -> Option<Resource> {
    match kind {
        ResourceKind::Namespace => {
            fields.skip(&["spec"]);
            Some(Resource::Namespace(Labelled {
                labels: metadata.labels.clone(),
            }))
        }
        ResourceKind::ServiceAccount => {
            fields.skip(&[
                "secrets",
                "imagePullSecrets",
                "automountServiceAccountToken",
            ]);
            Some(Resource::ServiceAccount(Labelled {
                labels: metadata.labels.clone(),
            }))
        }
        ResourceKind::EndpointSlice => Some(Resource::EndpointSlice(read_slice(fields, metadata))),
        _ => {
            // Without a specification everything has its default.
            let empty = Value::Map(Default::default());
            let node = fields.take("spec").unwrap_or(Node {
                value: &empty,
                path: Path::default().field("spec"),
                errors: fields.errors,
            });
            let mut spec = node.fields()?;
            let resource = read_spec(&mut spec, kind, metadata);
            spec.finish();
            resource
        }
    }
}

fn read_spec(spec: &mut Fields<'_>, kind: ResourceKind, metadata: &Metadata) -> Option<Resource> {
    Some(match kind {
        ResourceKind::Tier => Resource::Tier(read_tier(spec, metadata)),
        ResourceKind::Policy(kind) => Resource::Policy(Box::new(match kind {
            PolicyKind::KubernetesNetworkPolicy | PolicyKind::StagedKubernetesNetworkPolicy => {
                kubernetes::read_policy(spec, kind)
            }
            PolicyKind::KubernetesClusterNetworkPolicy => cluster::read_policy(spec),
            _ => network_policy::read_policy(spec, kind, metadata),
        })),
        ResourceKind::Profile => Resource::Profile(read_profile(spec)),
        ResourceKind::NetworkSet | ResourceKind::GlobalNetworkSet => {
            Resource::NetworkSet(read_network_set(spec, metadata))
        }
        ResourceKind::HostEndpoint => Resource::HostEndpoint(read_host(spec, metadata)),
        ResourceKind::WorkloadEndpoint => {
            Resource::WorkloadEndpoint(Box::new(read_workload(spec, metadata)))
        }
        ResourceKind::FelixConfiguration => {
            let name = &metadata.name;
            if name != "default" && !name.starts_with("node.") {
                spec.errors.push(
                    "metadata.name",
                    format!(
                        "value is {name:?}; it must be \"default\" or \"node.\" and a node's name"
                    ),
                );
            }
            Resource::FelixConfiguration(Box::new(read_felix(spec)))
        }
        ResourceKind::AccessList => Resource::AccessList(read_access_list(spec)?),
        ResourceKind::IpPool => Resource::IpPool(read_ip_pool(spec)?),
        ResourceKind::Namespace | ResourceKind::ServiceAccount | ResourceKind::EndpointSlice => {
            return None;
        }
    })
}

impl ResourceId {
    /// The policy that it names, if it is one.
    pub fn policy(&self) -> Option<PolicyId> {
        match self.kind {
            ResourceKind::Policy(kind) => Some(PolicyId {
                kind,
                namespace: self.namespace.clone(),
                name: self.name.clone(),
            }),
            _ => None,
        }
    }
}
