//! Policy states from files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use control_api::v1::{self, object::Spec};
use model::ObjectSpec;
use model::policy::{Object, PolicyState, ResourceId};

use crate::convert;
use crate::yaml::{LoadError, Raw, load_raw_paths};

/// The policy among a daemon's objects.
///
/// # Errors
///
/// Everything that is wrong: the daemon is of another version.
pub fn state_of<'a>(
    objects: impl IntoIterator<Item = &'a v1::Object>,
) -> Result<PolicyState, Vec<v1::SpecError>> {
    let mut state = PolicyState::default();
    let mut errors = Vec::new();
    for object in objects {
        if !matches!(object.spec, Some(Spec::Document(_))) {
            continue;
        }
        match convert::to_model(object) {
            Ok((_, ObjectSpec::Policy(object))) => drop(state.insert(*object)),
            Ok(_) => {}
            Err(wrong) => errors.extend(wrong),
        }
    }
    if errors.is_empty() {
        Ok(state)
    } else {
        Err(errors)
    }
}

/// Reads files, directories (their `*.yaml`, `*.yml` and `*.json`) and standard input (`-`): Calico's, Kubernetes' and our own kinds that say something
/// about policy. Objects of our other kinds are checked and left out.
///
/// # Errors
///
/// Everything that is wrong, with the file, the object and the field.
pub fn load(paths: &[PathBuf]) -> Result<PolicyState, Vec<LoadError>> {
    let mut state = PolicyState::default();
    let mut known: BTreeMap<ResourceId, Raw> = BTreeMap::new();
    let mut errors = Vec::new();
    for raw in load_raw_paths(paths)? {
        if let Some(plain) = raw.plain() {
            errors.extend(plain.err());
            continue;
        }
        match Object::read(&raw.value) {
            Ok(object) => {
                if let Some(first) = known.get(&object.id) {
                    let place = &first.origin;
                    let message =
                        format!("is there twice: also in {}:{}", place.source, place.line);
                    errors.push(raw.error(&object.id.to_string(), "metadata.name", message));
                    continue;
                }
                known.insert(object.id.clone(), raw);
                state.insert(object);
            }
            Err(wrong) => errors.extend(
                wrong
                    .errors
                    .iter()
                    .map(|error| raw.error(&wrong.object, &error.field, &*error.message)),
            ),
        }
    }
    // With objects left out, others would be blamed.
    if errors.is_empty()
        && let Err(wrong) = state.validate()
    {
        for (id, error) in wrong {
            let place = known.get(&id);
            errors
                .extend(place.map(|raw| raw.error(&id.to_string(), &error.field, &*error.message)));
        }
    }
    if errors.is_empty() {
        Ok(state)
    } else {
        Err(errors)
    }
}
