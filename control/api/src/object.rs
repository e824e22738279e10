//! Objects: what the generated code cannot know, because `spec` depends on `kind`.

use serde::ser::{Error, Serialize, SerializeStruct, Serializer};
use std::fmt;

use crate::v1::{DocumentSpec, Metadata, Object, ObjectKey, object::Spec};

/// The `apiVersion` of our own kinds.
pub const API_VERSION: &str = "oncilla.io/v1";

/// Every kind, in the order in which objects depend on each other.
pub const KINDS: &[&str] = &[
    "Vrf",
    "Interface",
    "Address",
    "Route",
    "Neighbour",
    "NatPool",
    "NatRule",
    "PortForward",
    "StaticNat",
    "Tier",
    "GlobalNetworkPolicy",
    "NetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "KubernetesNetworkPolicy",
    "KubernetesClusterNetworkPolicy",
    "Profile",
    "NetworkSet",
    "GlobalNetworkSet",
    "HostEndpoint",
    "WorkloadEndpoint",
    "FelixConfiguration",
    "Namespace",
    "ServiceAccount",
    "EndpointSlice",
    "AccessList",
    "IPPool",
];

impl Object {
    /// An object of the kind that the specification belongs to.
    ///
    /// ```
    /// use control_api::v1::{AddressSpec, Object, object::Spec};
    ///
    /// let spec = AddressSpec { interface: "lan".into(), address: "10.0.0.1/24".into() };
    /// let object = Object::new("lan", Spec::Address(spec));
    /// assert_eq!(object.key().to_string(), "Address/lan");
    /// ```
    pub fn new(name: impl Into<String>, spec: Spec) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: spec.kind().to_owned(),
            metadata: Some(Metadata {
                name: name.into(),
                ..Metadata::default()
            }),
            spec: Some(spec),
        }
    }

    /// An object of policy: the key's kind and name, the document's API version, and the document in JSON.
    pub fn document(key: ObjectKey, api_version: impl Into<String>, json: String) -> Self {
        Self {
            api_version: api_version.into(),
            kind: key.kind,
            metadata: Some(Metadata {
                name: key.name,
                ..Metadata::default()
            }),
            spec: Some(Spec::Document(DocumentSpec { json })),
        }
    }

    /// Its name; empty where the client sent none.
    pub fn name(&self) -> &str {
        self.metadata
            .as_ref()
            .map_or("", |metadata| metadata.name.as_str())
    }

    /// What names it.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind.clone(),
            name: self.name().to_owned(),
        }
    }
}

impl Spec {
    /// The kind that the specification belongs to; `Document` for those that are read from one.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Interface(_) => "Interface",
            Self::Address(_) => "Address",
            Self::Route(_) => "Route",
            Self::Neighbour(_) => "Neighbour",
            Self::Vrf(_) => "Vrf",
            Self::NatPool(_) => "NatPool",
            Self::NatRule(_) => "NatRule",
            Self::PortForward(_) => "PortForward",
            Self::StaticNat(_) => "StaticNat",
            Self::Document(_) => "Document",
        }
    }
}

/// `Kind/name`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// The Kubernetes shape: `apiVersion`, `kind`, `metadata`, `spec`; of a document, the document.
impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(Spec::Document(document)) = &self.spec {
            let value: serde_json::Value =
                serde_json::from_str(&document.json).map_err(S::Error::custom)?;
            return value.serialize(serializer);
        }
        let mut object = serializer.serialize_struct("Object", 4)?;
        object.serialize_field("apiVersion", &self.api_version)?;
        object.serialize_field("kind", &self.kind)?;
        match &self.metadata {
            Some(metadata) => object.serialize_field("metadata", metadata)?,
            None => object.skip_field("metadata")?,
        }
        match &self.spec {
            Some(Spec::Interface(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::Address(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::Route(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::Neighbour(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::Vrf(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::NatPool(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::NatRule(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::PortForward(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::StaticNat(spec)) => object.serialize_field("spec", spec)?,
            Some(Spec::Document(_)) | None => object.skip_field("spec")?,
        }
        object.end()
    }
}
