//! Policy states from files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::policy::{Object, PolicyState, ResourceId};

use crate::yaml::{LoadError, Raw, load_raw_paths};

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
