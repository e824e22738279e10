//! A refusal as a gRPC status: a readable message, and the same as data.

use prost::Message;
use tonic::{Code, Status};

use crate::v1::{SpecError, SpecErrors};

/// Bytes of details that fit a status: it travels in HTTP/2 trailers, which common clients limit to 8 KiB, in base64.
const DETAILS_LIMIT: usize = 3500;

/// Bytes of the readable message.
const MESSAGE_LIMIT: usize = 1000;

const TYPE_URL: &str = "type.googleapis.com/oncilla.v1.SpecErrors";

/// Why a request was refused: a status code, and what is wrong with which field of which object.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// What is wrong; the first ones where there are many.
    pub errors: Vec<SpecError>,
    /// How many there are.
    pub total: usize,
}

impl Refusal {
    /// A refusal with all its errors.
    pub fn new(code: Code, errors: Vec<SpecError>) -> Self {
        let total = errors.len();
        Self {
            code,
            errors,
            total,
        }
    }

    /// Reads the details of a status; `None` where it carries none of ours.
    pub fn from_status(status: &Status) -> Option<Self> {
        let rpc = RpcStatus::decode(status.details()).ok()?;
        let any = rpc.details.iter().find(|any| any.type_url == TYPE_URL)?;
        let details = SpecErrors::decode(any.value.as_slice()).ok()?;
        Some(Self {
            code: status.code(),
            errors: details.errors,
            total: details.total as usize,
        })
    }

    /// The status to answer with. What does not fit is left out, and counted.
    pub fn to_status(&self) -> Status {
        let mut details = SpecErrors {
            errors: Vec::new(),
            total: u32::try_from(self.total).unwrap_or(u32::MAX),
        };
        let mut size = 0;
        for error in &self.errors {
            size += error.encoded_len() + 4; // 4: the field's tag and length
            if size > DETAILS_LIMIT {
                break;
            }
            details.errors.push(error.clone());
        }
        let mut message = match self.errors.first() {
            Some(first) => first.to_string(),
            None => "refused".to_owned(),
        };
        if message.len() > MESSAGE_LIMIT {
            let end = (0..=MESSAGE_LIMIT)
                .rev()
                .find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or(0));
            message.push('…');
        }
        if self.total > 1 {
            message.push_str(&format!(" (and {} more)", self.total - 1));
        }
        let rpc = RpcStatus {
            code: self.code as i32,
            message: message.clone(),
            details: vec![prost_types::Any {
                type_url: TYPE_URL.to_owned(),
                value: details.encode_to_vec(),
            }],
        };
        Status::with_details(self.code, message, rpc.encode_to_vec().into())
    }
}

/// `Kind/name: field: message`.
impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// `google.rpc.Status`, which is what the header `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::ObjectKey;

    fn error(number: usize, length: usize) -> SpecError {
        SpecError {
            object: Some(ObjectKey {
                kind: "Route".into(),
                name: format!("r{number}"),
            }),
            field: "spec.destination".into(),
            message: "ä".repeat(length),
        }
    }

    #[test]
    fn details_survive_the_status() {
        let refusal = Refusal::new(Code::InvalidArgument, vec![error(1, 5), error(2, 5)]);
        let status = refusal.to_status();
        assert_eq!(
            status.message(),
            "Route/r1: spec.destination: äääää (and 1 more)"
        );
        assert_eq!(Refusal::from_status(&status), Some(refusal));
    }

    #[test]
    fn a_flood_of_errors_fits_the_trailers() {
        let refusal = Refusal::new(
            Code::InvalidArgument,
            (0..5000).map(|n| error(n, 600)).collect(),
        );
        let status = refusal.to_status();
        assert!(status.details().len() + status.message().len() < 6000);
        let read = Refusal::from_status(&status).expect("has details");
        assert_eq!(read.total, 5000);
        assert!(!read.errors.is_empty());
    }

    #[test]
    fn foreign_details_are_no_refusal() {
        let status = Status::with_details(Code::Internal, "x", vec![0xff, 0xff, 0xff].into());
        assert_eq!(Refusal::from_status(&status), None);
    }
}
